//! How much memory this machine has, or its container.

use std::fs;

/// Bytes that this program can have now, as the system estimates it, and no more than its container has in all; None where the system does not say so in
/// `/proc/meminfo`.
pub(crate) fn available() -> Option<u64> {
    let available = parse(&fs::read_to_string("/proc/meminfo").ok()?)?;
    // In the file is `max`, or a number of bytes; a machine as a whole has no such file.
    let limit =
        fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some(limit.map_or(available, |limit| available.min(limit)))
}

fn parse(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_read_or_unknown() {
        let meminfo = "MemTotal:       24689792 kB\nMemFree:  1 kB\nMemAvailable:   23068672 kB\n";
        assert_eq!(parse(meminfo), Some(23_068_672 * 1024));
        for odd in ["", "MemTotal: 1 kB\n", "MemAvailable: x kB\n", "MemAvailable: 18446744073709551615 kB\n"]
        {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }
}
