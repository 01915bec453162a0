//! What the standard library does not offer for files: record locks, space that is really there, sharing.
//!
//! Invariants:
//! - A lock of [`lock`] belongs to the process: it is not inherited by forks, the kernel drops it at the
//!   process's death, and, by POSIX, also when the process closes *any* descriptor of that file.
//! - A stretch given by [`allocate`] is backed by the disk: writing to its mapping cannot fail for want of space.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Device and inode of an open descriptor: whether a number still is what it was.
pub fn identity(fd: i32) -> Option<(u64, u64)> {
    let mut st = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `st` is a valid place for one `struct stat`; fstat reports a bad descriptor as an error.
    if unsafe { libc::fstat(fd, st.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: fstat succeeded and filled it in (and it was zeroed before).
    let st = unsafe { st.assume_init() };
    // The types differ between systems.
    #[allow(clippy::unnecessary_cast)]
    Some((st.st_dev as u64, st.st_ino as u64))
}

/// Close a descriptor that the caller knows to be his.
pub fn close(fd: i32) {
    // SAFETY: a number that is not open is an error and nothing else.
    unsafe { libc::close(fd) };
}

/// A lock on the whole of a file.
fn whole_file() -> libc::flock {
    // SAFETY: all-zero bytes are a value of `flock`: from 0, to the end, of no process.
    let mut whole: libc::flock = unsafe { std::mem::zeroed() };
    whole.l_type = libc::F_WRLCK as libc::c_short;
    whole.l_whence = libc::SEEK_SET as libc::c_short;
    whole
}

/// Whether another process has the record lock; takes nothing. The descriptor may be one to read.
pub fn is_locked(fd: i32) -> io::Result<bool> {
    let mut found = whole_file();
    // SAFETY: the descriptor is open and `found` a valid lock description, which the kernel may overwrite.
    if unsafe { libc::fcntl(fd, libc::F_GETLK, &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(found.l_type != libc::F_UNLCK as libc::c_short)
}

/// An open file whose descriptor somebody may close behind our back, and give its number to something else: a
/// daemoniser closes all there are. So it is looked at before each use and before it is closed.
#[derive(Debug)]
pub struct Guarded {
    file: ManuallyDrop<File>,
    identity: (u64, u64),
}

impl Guarded {
    /// Of a file just opened.
    pub fn new(file: File) -> io::Result<Guarded> {
        let meta = file.metadata()?;
        Ok(Guarded { file: ManuallyDrop::new(file), identity: (meta.dev(), meta.ino()) })
    }

    /// Device and inode.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// The file, if the descriptor still is its.
    pub fn get(&self) -> io::Result<&File> {
        match identity(self.file.as_raw_fd()) {
            Some(now) if now == self.identity => Ok(&self.file),
            _ => Err(io::Error::other("its descriptor was closed by somebody else")),
        }
    }

    /// The bare descriptor, no longer guarded.
    pub fn into_raw(mut self) -> i32 {
        // SAFETY: taken once; `self` is forgotten.
        let file = unsafe { ManuallyDrop::take(&mut self.file) };
        std::mem::forget(self);
        file.into_raw_fd()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.get().is_ok() {
            // SAFETY: not used again.
            unsafe { ManuallyDrop::drop(&mut self.file) };
        }
    }
}

/// Read a small file that lives in memory, as those below `/proc` do.
pub fn read_small(path: &str) -> io::Result<Vec<u8>> {
    let file = Guarded::new(File::open(path)?)?;
    let mut content = Vec::new();
    file.get()?.read_to_end(&mut content)?;
    // Else it was somebody else's.
    file.get().map(|_| content)
}

/// The names in a directory. Unlike libc's way it needs nothing of libc's heap, and a descriptor that is closed under
/// it is an error.
#[cfg(target_os = "linux")]
pub fn names_in(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut how = std::fs::OpenOptions::new();
    let dir = how.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(dir)?;
    let dir = Guarded::new(dir)?;
    let (mut names, mut buffer) = (Vec::new(), vec![0u8; 1 << 15]);
    loop {
        let fd = dir.get()?.as_raw_fd();
        // SAFETY: the buffer is writable for its length.
        let n = unsafe { libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()) };
        match usize::try_from(n) {
            Ok(0) => return dir.get().map(|_| names),
            Ok(n) => read_entries(&buffer[..n.min(buffer.len())], &mut names),
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
}

/// `struct linux_dirent64` (getdents64(2)): inode:64, offset:64, length:16, type:8, name, 0.
#[cfg(target_os = "linux")]
fn read_entries(mut bytes: &[u8], names: &mut Vec<OsString>) {
    while let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, low, high, _, ..] = bytes {
        let len = usize::from(u16::from_ne_bytes([*low, *high]));
        let Some(name) = bytes.get(19..len) else { return };
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_os_string());
        }
        bytes = &bytes[len..];
    }
}

/// The names in a directory.
#[cfg(not(target_os = "linux"))]
pub fn names_in(dir: &Path) -> io::Result<Vec<OsString>> {
    std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
}

/// Give an open file that has no name one. Fails if the name is taken, or where the system cannot.
pub fn give_name(file: &File, path: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let to = CString::new(path.as_os_str().as_bytes())?;
        let here = libc::AT_FDCWD;
        // SAFETY: both are C strings.
        match unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), libc::AT_SYMLINK_FOLLOW) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, path);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What makes `open` of a directory give a file without a name.
#[cfg(target_os = "linux")]
pub const NAMELESS: libc::c_int = libc::O_TMPFILE;
/// No such thing here: the opening of a directory for writing fails.
#[cfg(not(target_os = "linux"))]
pub const NAMELESS: libc::c_int = 0;

/// Take the record lock on the whole file, without waiting. `false`: another process has it.
pub fn lock(fd: i32) -> io::Result<bool> {
    let whole = whole_file();
    // SAFETY: the descriptor is open and `whole` a valid lock description.
    if unsafe { libc::fcntl(fd, libc::F_SETLK, &raw const whole) } == 0 {
        return Ok(true);
    }
    let why = io::Error::last_os_error();
    match why.raw_os_error() {
        Some(libc::EACCES | libc::EAGAIN) => Ok(false),
        _ => Err(why),
    }
}

/// Make the file `len` bytes long, with the space for them set aside.
pub fn allocate(file: &File, len: u64) -> io::Result<()> {
    // Above this limit the kernel sends a signal that ends the host.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) } == 0;
    if known && limit.rlim_cur < len {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    #[cfg(target_os = "linux")]
    loop {
        // SAFETY: the descriptor is open.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len as libc::off_t) } {
            0 => return Ok(()),
            libc::EINTR => {}
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        use std::os::unix::fs::FileExt;
        let zeros = [0u8; 65536];
        let mut at = 0;
        while at < len {
            let n = zeros.len().min((len - at) as usize);
            file.write_all_at(&zeros[..n], at)?;
            at += n as u64;
        }
        Ok(())
    }
}

/// Map `len` bytes of the file, shared, in place of what is at `addr`.
///
/// # Safety
/// `[addr, addr + len)` must be page-aligned mappings of ours that nobody else uses, and the file at least
/// `len` bytes long for as long as the mapping is used.
pub unsafe fn map_over(addr: usize, len: usize, file: &File) -> io::Result<()> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let map = |at: usize, flags: libc::c_int| {
        // SAFETY: a place of the kernel's choice, or the caller's promise.
        let p = unsafe { libc::mmap(at as *mut libc::c_void, len, prot, flags, file.as_raw_fd(), 0) };
        if p == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(p) }
    };
    // A file system that refuses is found out elsewhere: where something is replaced, older kernels have taken
    // away what was there by the time they fail, and another thread may be given the gap.
    let elsewhere = map(0, libc::MAP_SHARED)?;
    // SAFETY: the mapping just made, which nobody uses.
    unsafe { libc::munmap(elsewhere, len) };
    map(addr, libc::MAP_SHARED | libc::MAP_FIXED).map(drop)
}

/// Bring a shared mapping's changes, and what is needed to find them, to the disk. Waits for it.
pub fn sync(addr: usize, len: usize) -> io::Result<()> {
    // SAFETY: changes no byte; an address that is not mapped is refused.
    let r = unsafe { libc::msync(addr as *mut libc::c_void, len, libc::MS_SYNC) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    fn file(name: &str) -> (File, std::path::PathBuf) {
        let path = std::path::PathBuf::from(format!("/tmp/libtelemetry-{}-{name}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        (file, path)
    }

    #[test]
    fn space_is_set_aside_or_refused() {
        let (file, path) = file("allocate");
        allocate(&file, 1 << 20).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), 1 << 20);
        assert!(meta.blocks() * 512 >= 1 << 20, "only {} blocks", meta.blocks());
        assert!(allocate(&file, 1 << 60).is_err());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_number_that_was_given_to_others_is_not_closed() {
        let (file, path) = file("guarded");
        let guarded = Guarded::new(file).unwrap();
        let other = File::open("/dev/null").unwrap();
        // SAFETY: both are open and this test's.
        let number = unsafe { libc::dup2(other.as_raw_fd(), guarded.file.as_raw_fd()) };
        assert!(guarded.get().is_err());
        drop(guarded);
        assert!(identity(number).is_some(), "closed a descriptor of somebody else");
        close(number);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn names_are_those_of_the_directory() {
        let dir = std::path::PathBuf::from(format!("/tmp/libtelemetry-{}-names", std::process::id()));
        // Left by one that was killed and had this process id.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        let mut wanted: Vec<_> = (0..2000).map(|i| OsString::from(format!("{i:0100}"))).collect();
        wanted.push("x".into());
        wanted.iter().for_each(|name| drop(File::create(dir.join(name)).unwrap()));
        let mut found = names_in(&dir).unwrap();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(names_in(&dir).is_err() && names_in(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn a_lock_is_not_in_the_way_of_its_own_process() {
        let (a, path) = file("lock");
        assert!(lock(a.as_raw_fd()).unwrap());
        assert!(lock(a.as_raw_fd()).unwrap());
        assert!(!is_locked(a.as_raw_fd()).unwrap(), "only another process's");
        std::fs::remove_file(path).unwrap();
    }
}
