//! What the heap keeps for itself after a big piece of work.

/// Gives free memory back to the system. A look at five hundred ports takes some MiB for some
/// milliseconds; glibc would keep them for ever.
#[cfg(target_env = "gnu")]
pub(crate) fn give_back() {
    // SAFETY: malloc_trim(3) may be called at any time from any thread.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Other allocators give back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back() {}
