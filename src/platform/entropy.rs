//! Randomness from the operating system: stateless, so a fork cannot copy it.

/// 64 fresh random bits. Never fails: should the system have none (an ancient kernel), the clock, the
/// process and an address are mixed instead, which is unique enough for ids and used for nothing else.
pub fn random_u64() -> u64 {
    let mut word = 0u64;
    #[cfg(target_os = "linux")]
    {
        // SAFETY: eight writable bytes; getrandom reports failure by its return value.
        let n = unsafe { libc::getrandom((&raw mut word).cast(), 8, 0) };
        if n == 8 {
            return word;
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        // SAFETY: eight writable bytes, below the 256 that getentropy accepts.
        if unsafe { libc::getentropy((&raw mut word).cast(), 8) } == 0 {
            return word;
        }
    }
    mix(super::clock::wall_precise_ns() ^ (u64::from(super::process::pid()) << 40) ^ (&raw const word as u64))
}

/// A bijective mixer of 64 bits (the finaliser of MurmurHash3, by Austin Appleby).
pub const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}
