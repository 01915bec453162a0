//! Whether an anonymous file is sealed.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Whether nobody can shrink that file any more, so that whoever maps it may touch all of it. A file that cannot be
/// sealed at all is an error.
#[cfg(target_os = "linux")]
pub fn is_sealed(file: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is open, and the command only asks.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) } {
        -1 => Err(io::Error::last_os_error()),
        seals => Ok(seals & libc::F_SEAL_SHRINK != 0),
    }
}

/// No such files here.
#[cfg(not(target_os = "linux"))]
pub fn is_sealed(_file: &File) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::shared::Shared;
    use std::os::fd::AsFd;

    #[test]
    fn an_anonymous_one_is_and_a_plain_file_cannot_be() {
        let shared = Shared::anonymous(c"test", 4096).unwrap();
        let file = File::from(shared.as_fd().try_clone_to_owned().unwrap());
        assert!(is_sealed(&file).unwrap());
        assert!(is_sealed(&File::open("/proc/self/exe").unwrap()).is_err());
    }
}
