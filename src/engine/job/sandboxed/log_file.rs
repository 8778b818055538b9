//! The log of a stage: a file, the events of the run, and the last lines for a report.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use impasto_stages::Secret;

use crate::engine::cause::Clues;
use crate::engine::history::file_name;
use crate::engine::job::Job;
use crate::engine::log::{Lines, Redactor, Tail};

/// A stage's log: every line goes to its file and to the engine.
pub(in crate::engine::job) struct LogFile<'a> {
    job: &'a Job,
    lines: Lines,
    tail: Tail,
    clues: Clues,
    file: Option<io::BufWriter<File>>,
}

impl<'a> LogFile<'a> {
    /// `more` are secrets that the job does not know of.
    pub(in crate::engine::job) fn create(job: &'a Job, more: &[Secret]) -> Self {
        // A log that cannot be kept is no reason not to build.
        let file = job.context.logs.as_ref().ok().and_then(|dir| {
            let path = dir.join(format!("{}.log", file_name(&job.names[0])));
            // The log of a node is that of all of its units.
            if job.unit == 0 {
                // Other nodes may have had this one's log as theirs.
                let _ = std::fs::remove_file(&path);
            }
            let mut open = File::options();
            open.create(true)
                .write(true)
                .truncate(job.unit == 0)
                .append(job.unit > 0);
            // Root writes here for whoever owns the directory, and through no link of theirs.
            open.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
            let file = open.open(&path).ok()?;
            let stat = file.metadata().ok()?;
            if stat.nlink() == 1 && stat.uid() != job.store.owner().uid() {
                job.store.owner().give(&file).ok()?;
            }
            for other in &job.names[1..] {
                let link = dir.join(format!("{}.log", file_name(other)));
                let _ = std::fs::remove_file(&link);
                let _ = std::fs::hard_link(&path, &link);
            }
            Some(io::BufWriter::new(file))
        });
        let redactor = match more {
            [] => job.redactor.clone(),
            more => Redactor::new(job.secrets.values().chain(more)),
        };
        LogFile {
            job,
            lines: Lines::new(redactor),
            tail: Tail::default(),
            clues: Clues::default(),
            file,
        }
    }

    pub(in crate::engine::job) fn bytes(&mut self, bytes: &[u8]) {
        let mut whole = Vec::new();
        self.lines.push(bytes, &mut |line| whole.push(line));
        whole.into_iter().for_each(|line| self.take(line));
    }

    /// What failed before this did not fail for it.
    pub(in crate::engine::job) fn begin_step(&mut self) {
        self.clues.begin_step();
    }

    fn take(&mut self, line: String) {
        self.tail.push(&line);
        self.clues.push(&line);
        if let Some(file) = &mut self.file
            && writeln!(file, "{line}").is_err()
        {
            self.file = None;
        }
        self.job.line(line);
    }

    /// The last lines, and what all of them hint at.
    pub(in crate::engine::job) fn finish(mut self) -> (Vec<String>, Clues) {
        let mut last = Vec::new();
        self.lines.finish(&mut |line| last.push(line));
        last.into_iter().for_each(|line| self.take(line));
        (self.tail.into_lines(), self.clues)
    }
}
