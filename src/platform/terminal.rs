//! How large the terminal is.

use std::os::fd::{AsFd, AsRawFd};

/// Columns and rows of the terminal behind a descriptor; `None` if it is none, or does not know.
pub fn size(of: &impl AsFd) -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open, and `size` a place for the answer.
    let failed = unsafe { libc::ioctl(of.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) } != 0;
    (!failed && size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_pipe_has_none() {
        let (reader, _writer) = std::io::pipe().unwrap();
        assert_eq!(super::size(&reader), None);
    }
}
