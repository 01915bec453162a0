//! A mapping that every forked child finds blank.
//!
//! Invariants:
//! - Its content is one `H` followed by `n` of `S`; both consist of atomics (and padding) only, for which
//!   all-zero bytes are a value. So a blank page is a valid page, and shared references are always sound.
//! - The mapping lives as long as the `WipedPage`.

use super::mmap::Mapping;
use std::marker::PhantomData;
use std::{io, slice};

/// Types made of atomics only, for which all-zero bytes are a valid value.
///
/// # Safety
/// The implementor must contain nothing but atomics, arrays of them and padding.
pub unsafe trait Blank {}

#[cfg(not(loom))]
// SAFETY: an atomic; zero is a value.
unsafe impl Blank for std::sync::atomic::AtomicU32 {}
#[cfg(not(loom))]
// SAFETY: an atomic; zero is a value.
unsafe impl Blank for std::sync::atomic::AtomicU64 {}
// SAFETY: as its elements.
unsafe impl<T: Blank, const N: usize> Blank for [T; N] {}

/// Declares a `#[repr(C)]` struct whose fields are all [`Blank`], and which therefore is [`Blank`] itself.
/// The compiler refuses a field that is not.
#[macro_export]
macro_rules! blank_struct {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$fmeta:meta])* $fvis:vis $field:ident: $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        $vis struct $name { $($(#[$fmeta])* $fvis $field: $ty),* }
        #[cfg(not(loom))]
        const _: () = {
            const fn all_blank<T: $crate::platform::page::Blank>() {}
            $(all_blank::<$ty>();)*
        };
        #[cfg(not(loom))]
        // SAFETY: every field is `Blank`, checked just above.
        unsafe impl $crate::platform::page::Blank for $name {}
    };
}

/// See the module's text.
pub struct WipedPage<H: Blank, S: Blank> {
    mapping: Mapping,
    count: usize,
    wiped: bool,
    types: PhantomData<(H, S)>,
}

impl<H: Blank, S: Blank> WipedPage<H, S> {
    /// A blank page with `count` tail elements. `try_wipe` false forces the fallback without wipe-on-fork.
    pub fn new(count: usize, try_wipe: bool) -> io::Result<Self> {
        let mapping = Mapping::anonymous(Self::tail_offset() + count * size_of::<S>())?;
        let wiped = try_wipe && mapping.wipe_on_fork();
        Ok(WipedPage { mapping, count, wiped, types: PhantomData })
    }

    fn tail_offset() -> usize {
        size_of::<H>().next_multiple_of(align_of::<S>())
    }

    /// Whether the kernel wipes it (otherwise the fallback has to).
    pub fn is_wiped(&self) -> bool {
        self.wiped
    }

    /// The head of the page.
    #[inline(always)]
    pub fn head(&self) -> &H {
        // SAFETY: the mapping is page-aligned, large enough, lives as long as `self`, and any bytes the
        // kernel may have put there (zero) are a value of `H` by the contract of `Blank`.
        unsafe { &*(self.mapping.addr() as *const H) }
    }

    /// The elements behind the head.
    #[inline(always)]
    pub fn tail(&self) -> &[S] {
        // SAFETY: as for `head`; `count` elements were reserved behind it, suitably aligned.
        unsafe { slice::from_raw_parts((self.mapping.addr() + Self::tail_offset()) as *const S, self.count) }
    }
}
