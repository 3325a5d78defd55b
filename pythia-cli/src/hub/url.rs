//! URLs: taken apart, joined, compared and shown.

use super::name::printable;
use anyhow::{Context, Result, ensure};
use ureq::http::Uri;

/// A URL from its text.
pub(super) fn parse(url: &str) -> Result<Uri> {
    url.parse().with_context(|| format!("{} is not a URL", printable(url)))
}

/// Whether this client can speak to it.
pub(super) fn is_web(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|h| !h.is_empty())
}

/// Whether two URLs have the same scheme, host and port.
pub(super) fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |u: &Uri| u.port_u16().unwrap_or(if u.scheme_str() == Some("https") { 443 } else { 80 });
    let host = |u: &Uri| u.host().map(str::to_ascii_lowercase);
    a.scheme() == b.scheme() && host(a) == host(b) && port(a) == port(b)
}

/// A URL without its query, which may be a signature.
pub(super) fn shown(uri: &Uri) -> String {
    format!("{}://{}{}", uri.scheme_str().unwrap_or_default(), uri.host().unwrap_or_default(), uri.path())
}

/// RFC 3986, section 5.2, as far as servers use it.
pub(super) fn join(base: &Uri, target: &str) -> Result<Uri> {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |a| a.as_str());
    let absolute = if target.contains("://") && !target.starts_with('/') {
        target.to_owned()
    } else if target.starts_with("//") {
        format!("{scheme}:{target}")
    } else if target.starts_with('/') {
        format!("{scheme}://{authority}{target}")
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{target}")
    };
    let uri = parse(&absolute)?;
    ensure!(is_web(&uri), "expected http or https");
    Ok(uri)
}

/// Percent-encodes what may not stand in a path.
pub(super) fn escape(text: &str, keep_slash: bool) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut out, b| {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (keep_slash && b == b'/') {
            out.push(b as char);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined() {
        let base: Uri = "https://hub.example:8/a/b?q=1".parse().unwrap();
        for (target, expected) in [
            ("https://cdn.example/x?sig=1", "https://cdn.example/x?sig=1"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/api/x?u=http://y", "https://hub.example:8/api/x?u=http://y"),
            ("c", "https://hub.example:8/a/c"),
        ] {
            assert_eq!(join(&base, target).unwrap().to_string(), expected);
        }
        for target in ["file:///etc/passwd", "ftp://x/y", "http://"] {
            assert!(join(&base, target).is_err(), "{target}");
        }
    }

    #[test]
    fn origins_compare_by_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://huggingface.co/a", "https://HuggingFace.co:443/b"));
        assert!(!same("https://huggingface.co", "http://huggingface.co"));
        assert!(!same("https://huggingface.co", "https://huggingface.co:8443"));
        assert!(!same("https://huggingface.co", "https://huggingface.co.evil.example"));
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escape("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(escape("a b/c?.json", true), "a%20b/c%3F.json");
    }
}
