//! Silence for panics that are caught.

use std::panic;

/// Runs `f`, in which the `tokenizers` crate may panic on a crafted file or text. The panic is caught there and comes
/// back as an error; the default hook would print it beforehand nonetheless.
pub(crate) fn quietly<R>(f: impl FnOnce() -> R) -> R {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = f();
    panic::set_hook(hook);
    result
}
