//! What the heap keeps for itself: after a big piece of work, and for each thread.

/// Gives free memory back to the system. A look at five hundred ports takes some MiB for some
/// milliseconds; glibc would keep them for ever.
#[cfg(target_env = "gnu")]
pub(crate) fn give_back() {
    // SAFETY: malloc_trim(3) may be called at any time from any thread.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Has all threads share two heaps: glibc gives each of many its own, up to eight a processor, and
/// what one of them has grown to stays. Before the first thread is started.
#[cfg(target_env = "gnu")]
pub(crate) fn share() {
    // SAFETY: mallopt(3) changes a number of the allocator's; no other thread runs yet.
    unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, 2) };
}

/// Other allocators share by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn share() {}

/// Other allocators give back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back() {}
