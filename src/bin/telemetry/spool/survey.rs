//! One spool's directory, looked through: its stems with their owners and segments, its uploads, and the files beside them.

use super::owner::Owner;
use super::places::is_spools;
use super::segment::{self, Report};
use super::upload::{self, Upload};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use telemetry::platform::identity::Identity;
use telemetry::queue::spool::directory::{Directory, Listing};
use telemetry::queue::spool::names::Stem;

/// See the module's text.
pub struct Survey {
    /// The directory.
    pub path: PathBuf,
    /// What processes hold or left, oldest first.
    pub stems: Vec<Held>,
    /// Uploads that wait, the oldest first.
    pub uploads: Vec<Upload>,
    /// Files that adopters have set aside.
    pub set_aside: Vec<Report>,
    /// Files with names of nobody's, and their lengths.
    pub unknown: Vec<(String, u64)>,
}

/// What one process holds or left.
pub struct Held {
    /// The beginning of its files' names.
    pub stem: Stem,
    /// Whose it is.
    pub owner: Owner,
    /// Its segments, in order.
    pub segments: Vec<Report>,
}

impl Survey {
    /// Look through a directory.
    pub fn of(path: &Path) -> io::Result<Survey> {
        let (dir, me) = (Directory::at(path), Identity::mine());
        let Listing { owns, segments, media, others } = dir.list()?;
        let stems: BTreeSet<Stem> = owns.keys().chain(segments.keys()).copied().collect();
        let stems = stems.into_iter().filter_map(|stem| {
            let holders = owns.get(&stem).map_or(&[][..], Vec::as_slice);
            let numbers = segments.get(&stem).map_or(&[][..], Vec::as_slice);
            let known = Owner::of(&dir, stem, holders, &me);
            let live = known.is_none_or(|owner| !owner.is_takeable());
            let look = |(number, _): &(u32, u64)| segment::look(&dir, &stem.segment(*number), live);
            let reports: Vec<Report> = numbers.iter().filter_map(look).collect();
            let written_by = || reports.iter().find_map(|report| report.header.map(|header| header.owner));
            let owner = known.unwrap_or_else(|| Owner::by_header(written_by(), &me));
            // Segments without an own file, all gone by now: so is the stem.
            (known.is_some() || !reports.is_empty()).then_some(Held { stem, owner, segments: reports })
        });
        let (set_aside, unknown): (Vec<String>, Vec<String>) =
            others.into_iter().partition(|name| name.ends_with(".bad") && is_spools(name));
        let aside = |name: &String| match name.ends_with(".media.bad") {
            true => upload::look(&dir, name),
            false => segment::look(&dir, name, false),
        };
        let length = |name: &String| dir.file(name).symlink_metadata().map_or(0, |meta| meta.len());
        Ok(Survey {
            path: path.to_path_buf(),
            stems: stems.collect(),
            uploads: media.into_iter().filter_map(|(name, len)| Upload::of(&dir, name, len, &me)).collect(),
            set_aside: set_aside.iter().filter_map(aside).collect(),
            unknown: unknown.into_iter().map(|name| (name.clone(), length(&name))).collect(),
        })
    }

    /// What an adopter would take.
    pub fn takeable(&self) -> impl Iterator<Item = &Held> {
        self.stems.iter().filter(|held| held.owner.is_takeable())
    }

    /// Uploads that an adopter would take.
    pub fn takeable_uploads(&self) -> impl Iterator<Item = &Upload> {
        self.uploads.iter().filter(|upload| upload.owner.is_takeable())
    }

    /// Their bytes, those that an adopter would leave alone included.
    pub fn upload_bytes(&self) -> u64 {
        self.uploads.iter().map(|upload| upload.bytes).sum()
    }

    /// What an adopter would leave alone.
    pub fn others(&self) -> impl Iterator<Item = &Held> {
        self.stems.iter().filter(|held| !held.owner.is_takeable())
    }
}

impl Held {
    /// The sum of something over its segments.
    pub fn sum(&self, of: impl Fn(&Report) -> u64) -> u64 {
        self.segments.iter().map(of).sum()
    }

    /// Events that are not settled.
    pub fn events(&self) -> u64 {
        self.sum(|segment| segment.events)
    }

    /// The formats its headers name.
    pub fn formats(&self) -> BTreeSet<String> {
        let named = |segment: &Report| segment.header.map(|header| header.format_str());
        self.segments.iter().filter_map(named).collect()
    }
}
