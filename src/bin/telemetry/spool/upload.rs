//! One upload's file: whose it is, how large, and whether it can be read.
//!
//! Invariants:
//! - The file is opened only to be read.
//! - A file that is gone when it is looked at was delivered: that is no fault.

use super::owner::Owner;
use super::segment::{Fault, Report};
use std::io;
use telemetry::platform::identity::Identity;
use telemetry::queue::media::image::Image;
use telemetry::queue::spool::directory::Directory;
use telemetry::queue::spool::names::MediaName;

/// See the module's text.
pub struct Upload {
    /// What its name says.
    pub name: MediaName,
    /// Its length.
    pub bytes: u64,
    /// Whose it is.
    pub owner: Owner,
}

impl Upload {
    /// Look at it from outside. `None`: it is gone.
    pub fn of(dir: &Directory, name: MediaName, bytes: u64, me: &Identity) -> Option<Upload> {
        let text = name.text();
        dir.file(&text).symlink_metadata().ok()?;
        let owner = Owner::of_file(dir, &text, name.holder.as_ref(), me);
        Some(Upload { name, bytes, owner })
    }
}

/// What is wrong with the file of that name. `None`: it is gone.
pub fn look(dir: &Directory, name: &str) -> Option<Report> {
    let mut report = Report { name: name.into(), ..Report::default() };
    let read = dir.open_to_read(name).and_then(|file| {
        report.bytes = file.get()?.metadata()?.len();
        file.get().and_then(Image::read_from)
    });
    let what = match read {
        Ok(Some(_)) => return Some(report),
        Ok(None) => "an upload that is not as it was written".into(),
        Err(why) if why.kind() == io::ErrorKind::NotFound => return None,
        Err(why) => format!("cannot be read: {why}"),
    };
    report.unread = true;
    report.faults.push(Fault { offset: None, what });
    Some(report)
}
