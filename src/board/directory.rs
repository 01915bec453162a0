//! The runtime directory: where what runs on this machine is found by others.
//!
//! Invariants:
//! - It is looked at before anything is put there: a directory of our own user, no symlink, that nobody else can write
//!   to, below one in which nobody else can rename it. That it cannot be had is no reason to fail: nothing is published.
//! - A fleet's scoreboard has no name of its own; it is a link `<name>.<pid>.board` to the supervisor's descriptor below
//!   `/proc`. Whoever made the link takes it away, a forked child of his never; a link of a process that is no more, or of
//!   another process that has its number by now, is taken away by the next one who publishes.
//! - A family's board is a file, `<name>-<hash>.family` ([`super::family`]).
//! - A reader opens nothing but what says that it is such a board, and never waits for whoever holds it.
//! - One directory serves one process-id namespace: numbers in links are of the namespace of whoever reads them.
#![forbid(unsafe_code)]

use super::scoreboard::{Board, text_of};
use crate::platform::files::{Guarded, names_in};
use crate::platform::process;
use crate::platform::sealed;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// What a link to a fleet's board ends in.
const BOARD: &str = ".board";
/// What a family's board ends in.
pub const FAMILY: &str = ".family";
/// The most bytes of a fleet's name that its link bears.
const LONGEST_NAME: usize = 64;
/// How the kernel shows the descriptor of a board.
const KERNEL_NAME: &str = "/memfd:libtelemetry-fleet";

/// The places that may be it, as they were given: a process may be another user's by the time it looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    given: Option<PathBuf>,
    session: Option<PathBuf>,
    temporary: Option<PathBuf>,
}

impl Places {
    /// As configured, else as the environment says; an empty variable is none.
    pub fn read(explicit: Option<&Path>, env: impl Fn(&str) -> Option<OsString>) -> Places {
        let variable = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let given = explicit.map(Path::to_path_buf).or_else(|| variable("TELEMETRY_RUNTIME_DIR"));
        Places {
            // A server that changes its directory later must still find it.
            given: given.map(|path| std::path::absolute(&path).unwrap_or(path)),
            session: variable("XDG_RUNTIME_DIR").filter(|path| path.is_absolute()),
            temporary: variable("TMPDIR").filter(|path| path.is_absolute()),
        }
    }

    /// Whether somebody chose it: then he is told when it cannot be used.
    pub fn is_chosen(&self) -> bool {
        self.given.is_some()
    }

    /// The one of the user that this process is now. A session's directory counts only if it is his: `su` leaves the
    /// variable of whoever called it.
    pub fn now(&self) -> PathBuf {
        let user = process::effective_uid();
        if let Some(given) = &self.given {
            return given.clone();
        }
        let his = |path: &&PathBuf| fs::metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == user);
        if let Some(session) = self.session.as_ref().filter(his) {
            return session.join("telemetry");
        }
        if user == 0 {
            return PathBuf::from("/run/telemetry");
        }
        let temporary = self.temporary.as_deref().unwrap_or(Path::new("/tmp"));
        temporary.join(format!("telemetry-{user}"))
    }
}

/// The runtime directory: `explicit`, else `TELEMETRY_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/telemetry`, else
/// `/run/telemetry` for root and `telemetry-<uid>` under `$TMPDIR` or `/tmp` for others.
pub fn resolve(explicit: Option<&Path>, env: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    Places::read(explicit, env).now()
}

/// The runtime directory, looked at. Holds no descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    path: PathBuf,
}

impl Runtime {
    /// Make it if it is not there, readable by us alone, and look at it. What is not safe is refused
    /// ([`io::ErrorKind::PermissionDenied`]); the text says why, and what is allowed.
    pub fn open(dir: &Path) -> io::Result<Runtime> {
        if fs::symlink_metadata(dir).is_err_and(|why| why.kind() == io::ErrorKind::NotFound) {
            match DirBuilder::new().mode(0o700).recursive(true).create(dir) {
                // Another process was faster.
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
                done => done?,
            }
        }
        trust(dir, &fs::symlink_metadata(dir)?, true)?;
        if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty()) {
            trust(above, &fs::metadata(above)?, false)?;
        }
        Ok(Runtime { path: dir.to_path_buf() })
    }

    /// One that is only read: anybody's, as it is. Fails if it is not there.
    pub fn look(dir: &Path) -> io::Result<Runtime> {
        if !fs::metadata(dir)?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a directory"));
        }
        // So that what cannot be listed is said here.
        names_in(&fs::canonicalize(dir)?).map(|_| Runtime { path: dir.to_path_buf() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Show the board behind `fd` to others under the name that its header bears, until the result is dropped; `fd` must
    /// stay open and keep its number so long. Links of dead processes are swept away. A second board of that name in this
    /// process is shown as `<name>-2`.
    pub fn publish(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<Published> {
        // One that stays hurts nobody.
        let _ = self.sweep();
        let (pid, name) = (process::pid(), file_name(name));
        let target = PathBuf::from(format!("/proc/{pid}/fd/{}", fd.as_raw_fd()));
        for number in 1..100 {
            let again = if number > 1 { format!("-{number}") } else { String::new() };
            let path = self.path.join(format!("{name}{again}.{pid}{BOARD}"));
            // What this process published before it became another program.
            if fs::read_link(&path).is_ok_and(|old| old == target) {
                fs::remove_file(&path)?;
            }
            match symlink(&target, &path) {
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
                Err(why) => return Err(why),
                Ok(()) => return Ok(Published { path, target, pid }),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Take away the links of supervisors that are gone.
    fn sweep(&self) -> io::Result<()> {
        for found in self.discover()? {
            if found.kind == Kind::Fleet && matches!(found.board(), Err(Trouble::Gone)) {
                let _ = fs::remove_file(&found.path);
            }
        }
        Ok(())
    }

    /// Every fleet and every family there, by name; what of it can be read shows when it is opened.
    pub fn discover(&self) -> io::Result<Vec<Found>> {
        let names = names_in(&fs::canonicalize(&self.path)?)?;
        let mut found: Vec<Found> = names.iter().filter_map(|name| self.found(name.to_str()?)).collect();
        found.sort_unstable_by(|a, b| (a.kind, &a.name, a.pid).cmp(&(b.kind, &b.name, b.pid)));
        Ok(found)
    }

    fn found(&self, file: &str) -> Option<Found> {
        let path = self.path.join(file);
        if let Some(stem) = file.strip_suffix(FAMILY) {
            return Some(Found { kind: Kind::Family, name: stem.into(), pid: None, path });
        }
        let (name, pid) = file.strip_suffix(BOARD)?.rsplit_once('.')?;
        let pid = pid.parse().ok().filter(|_| pid.bytes().all(|b| b.is_ascii_digit()))?;
        Some(Found { kind: Kind::Fleet, name: name.into(), pid: Some(pid), path })
    }
}

/// A board that others can find. It is withdrawn when this is dropped, unless in a forked child: there it stays the
/// parent's.
#[derive(Debug)]
pub struct Published {
    path: PathBuf,
    target: PathBuf,
    pid: u32,
}

impl Published {
    /// The link.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Take the link away.
    pub fn withdraw(self) {}
}

impl Drop for Published {
    fn drop(&mut self) {
        let ours = process::pid() == self.pid;
        if ours && fs::read_link(&self.path).is_ok_and(|target| target == self.target) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What a board is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A fleet.
    Fleet,
    /// The processes of one destination.
    Family,
}

/// Something that was found in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it is of.
    pub kind: Kind,
    /// The fleet's name as a file's, or the family's `<name>-<hash>`.
    pub name: String,
    /// The supervisor's process id.
    pub pid: Option<u32>,
    /// The link, or the file.
    pub path: PathBuf,
}

/// Why a board cannot be read.
#[derive(Debug)]
pub enum Trouble {
    /// Its supervisor is no more.
    Gone,
    /// It is another user's.
    Foreign(String),
    /// Anything else.
    Other(io::Error),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Gone => f.write_str("its supervisor is gone"),
            Trouble::Foreign(why) => f.write_str(why),
            Trouble::Other(why) => write!(f, "{why}"),
        }
    }
}

impl Found {
    /// Open a fleet's board.
    pub fn board(&self) -> Result<Board, Trouble> {
        let target = fs::read_link(&self.path).map_err(|why| self.trouble(why))?;
        match fs::read_link(&target) {
            Ok(shown) if shown.to_string_lossy().starts_with(KERNEL_NAME) => {}
            // The number is another process's by now.
            Ok(_) => return Err(Trouble::Gone),
            Err(why) => return Err(self.trouble(why)),
        }
        let mut how = OpenOptions::new();
        let file = how.read(true).custom_flags(libc::O_NONBLOCK).open(&target);
        let file = Guarded::new(file.map_err(|why| self.trouble(why))?).map_err(Trouble::Other)?;
        let board = self.board_of(file.get().map_err(Trouble::Other)?).map_err(Trouble::Other)?;
        // Another supervisor that has the number, and shows its own board under another link.
        let (pid, name) = (board.header().pid.load(Ordering::Relaxed), text_of(&board.header().name));
        let its_own = Some(pid) == self.pid && self.name.starts_with(&file_name(&name));
        if its_own { Ok(board) } else { Err(Trouble::Gone) }
    }

    fn board_of(&self, file: &File) -> io::Result<Board> {
        // Else its owner could shrink it under us.
        if !sealed::is_sealed(file)? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a scoreboard: it is not sealed"));
        }
        Board::open(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
    }

    /// A regular file of a family, opened to be read; never waits, whatever it is.
    pub fn file(&self) -> Result<Guarded, Trouble> {
        let mut how = OpenOptions::new();
        how.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = how.open(&self.path).map_err(|why| self.trouble(why))?;
        Guarded::new(file).map_err(Trouble::Other)
    }

    /// What the system said, as what it means here.
    fn trouble(&self, why: io::Error) -> Trouble {
        let missing = why.kind() == io::ErrorKind::NotFound || why.raw_os_error() == Some(libc::ESRCH);
        if missing && !self.pid.is_some_and(process::exists) {
            return Trouble::Gone;
        }
        let user = process::effective_uid();
        let owner = fs::symlink_metadata(&self.path).map_or(user, |meta| meta.uid());
        match why.kind() {
            // Where processes of others are not even shown, theirs are missing.
            io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound if owner != user => {
                Trouble::Foreign(format!("it belongs to user {owner}, and this process runs as user {user}"))
            }
            _ if missing => Trouble::Gone,
            _ => Trouble::Other(why),
        }
    }
}

/// A fleet's name as part of a file's name.
fn file_name(name: &str) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let name: String = name.chars().take(LONGEST_NAME).map(|c| if fine(c) { c } else { '_' }).collect();
    if name.is_empty() { "fleet".into() } else { name }
}

/// Whether it, or (`leaf` false) what it lies in, may be used: see the module's text.
fn trust(path: &Path, meta: &Metadata, leaf: bool) -> io::Result<()> {
    let (shown, user, mode) = (path.display(), process::effective_uid(), meta.mode() & 0o7777);
    let refuse = |what: String| {
        let why = format!("{shown} {what}; allowed: a directory of this user that others cannot write to");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    };
    if meta.file_type().is_symlink() {
        return refuse("is a symlink".into());
    }
    if !meta.is_dir() {
        return refuse("is not a directory".into());
    }
    if leaf && meta.uid() != user {
        return refuse(format!("belongs to user {}, and this process runs as user {user}", meta.uid()));
    }
    if leaf && mode & 0o022 != 0 || mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return refuse(format!("can be written to by others (mode {mode:04o})"));
    }
    // In a directory with the sticky bit only the owner renames; in anybody else's, that one does.
    if !leaf && meta.uid() != user && meta.uid() != 0 {
        return refuse(format!("belongs to user {}, who could put another in its place", meta.uid()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    /// A path below the temporary directory that is not there.
    fn fresh(name: &str) -> PathBuf {
        let path = PathBuf::from(format!("/tmp/libtelemetry-{}-runtime-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn refusal(dir: &Path) -> String {
        let why = Runtime::open(dir).unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::PermissionDenied, "{why}");
        why.to_string()
    }

    #[test]
    fn the_first_place_that_is_named_is_it() {
        let session = fresh("session");
        fs::create_dir(&session).unwrap();
        let with = |explicit: Option<&str>, given: &[(&str, &str)]| {
            let find = |name: &str| Some(OsString::from(given.iter().find(|(n, _)| *n == name)?.1));
            resolve(explicit.map(Path::new), find).to_str().unwrap().to_string()
        };
        let (runtime, user) = (("TELEMETRY_RUNTIME_DIR", "/r"), process::effective_uid());
        let xdg = ("XDG_RUNTIME_DIR", session.to_str().unwrap());
        assert_eq!(with(Some("/e"), &[runtime, xdg]), "/e");
        assert_eq!(with(None, &[runtime, xdg]), "/r");
        assert_eq!(with(None, &[("TELEMETRY_RUNTIME_DIR", ""), xdg]), format!("{}/telemetry", xdg.1));
        let here = std::path::absolute(".").unwrap();
        assert_eq!(with(Some("x"), &[]), here.join("x").to_str().unwrap(), "absolute from the start");
        let else_where = if user == 0 { "/run/telemetry".into() } else { format!("/t/telemetry-{user}") };
        for nobodys in ["/nowhere/at/all", "", "relative"] {
            let places = with(None, &[("XDG_RUNTIME_DIR", nobodys), ("TMPDIR", "/t")]);
            assert_eq!(places, else_where, "{nobodys:?}");
        }
        fs::remove_dir(&session).unwrap();
    }

    #[test]
    fn it_is_made_private_and_refused_when_it_is_not() {
        let dir = fresh("trust");
        Runtime::open(&dir.join("in")).unwrap();
        assert_eq!(fs::metadata(dir.join("in")).unwrap().mode() & 0o7777, 0o700);
        fs::set_permissions(dir.join("in"), fs::Permissions::from_mode(0o755)).unwrap();
        Runtime::open(&dir.join("in")).unwrap();
        for mode in [0o777, 0o770, 0o1777] {
            fs::set_permissions(dir.join("in"), fs::Permissions::from_mode(mode)).unwrap();
            assert!(refusal(&dir.join("in")).contains(&format!("mode {mode:04o}")));
        }
        fs::set_permissions(dir.join("in"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refusal(&dir.join("in")).contains("0777"), "somebody else could rename it");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
        Runtime::open(&dir.join("in")).unwrap();
        symlink("in", dir.join("link")).unwrap();
        assert!(refusal(&dir.join("link")).contains("symlink"));
        fs::write(dir.join("file"), "").unwrap();
        assert!(refusal(&dir.join("file")).contains("not a directory"));
        assert!(Runtime::open(&dir.join("file/below")).is_err());
        assert!(Runtime::look(&dir.join("file")).is_err() && Runtime::look(&dir.join("not there")).is_err());
        if process::effective_uid() == 0 {
            std::os::unix::fs::chown(dir.join("in"), Some(4711), None).unwrap();
            assert!(refusal(&dir.join("in")).contains("user 4711"));
            assert!(Runtime::look(&dir.join("in")).is_ok());
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_board_is_found_until_it_is_withdrawn() {
        let dir = fresh("publish");
        let runtime = Runtime::open(&dir).unwrap();
        let board = Board::create("shop/eu", 3).unwrap();
        let one = runtime.publish("shop/eu", board.as_fd()).unwrap();
        let me = process::pid();
        assert_eq!(one.path(), dir.join(format!("shop_eu.{me}.board")));
        let other = Board::create("shop/eu", 5).unwrap();
        let two = runtime.publish("shop/eu", other.as_fd()).unwrap();
        for stranger in ["notes.txt", "x.y.board", "x.board", "1.+2.board"] {
            fs::write(dir.join(stranger), "").unwrap();
        }
        fs::write(dir.join("a-0123.family"), "").unwrap();
        let found = runtime.discover().unwrap();
        let names: Vec<_> = found.iter().map(|f| (f.kind, f.name.as_str(), f.pid)).collect();
        let wanted = [
            (Kind::Fleet, "shop_eu", Some(me)),
            (Kind::Fleet, "shop_eu-2", Some(me)),
            (Kind::Family, "a-0123", None),
        ];
        assert_eq!(names, wanted);
        assert_eq!((found[0].board().unwrap().slots(), found[1].board().unwrap().slots()), (3, 5));
        assert!(found[2].file().is_ok());
        // As a supervisor that has become a new program, with the same descriptor, does.
        let anew = runtime.publish("shop/eu", board.as_fd()).unwrap();
        assert_eq!(anew.path(), one.path());
        two.withdraw();
        assert_eq!(runtime.discover().unwrap().len(), 2);
        drop(anew);
        assert_eq!(runtime.discover().unwrap().len(), 1);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_dead_processes_left_is_told_and_swept() {
        let dir = fresh("sweep");
        let runtime = Runtime::open(&dir).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        symlink(format!("/proc/{dead}/fd/3"), dir.join(format!("old.{dead}.board"))).unwrap();
        // Its number is another's: a pipe, which nobody may open and wait for.
        let me = process::pid();
        let (reader, _writer) = io::pipe().unwrap();
        symlink(format!("/proc/{me}/fd/{}", reader.as_raw_fd()), dir.join(format!("pipe.{me}.board")))
            .unwrap();
        // And another fleet's board.
        let board = Board::create("shop", 1).unwrap();
        let number = board.as_fd().as_raw_fd();
        symlink(format!("/proc/{me}/fd/{number}"), dir.join(format!("lost.{me}.board"))).unwrap();
        let found = runtime.discover().unwrap();
        assert_eq!(found.len(), 3);
        for gone in &found {
            assert!(matches!(gone.board(), Err(Trouble::Gone)), "{}", gone.name);
        }
        let _published = runtime.publish("shop", board.as_fd()).unwrap();
        let left = runtime.discover().unwrap();
        assert_eq!(left.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["shop"]);
        fs::remove_dir_all(&dir).unwrap();
    }
}
