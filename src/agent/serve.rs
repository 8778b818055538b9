//! Takes requests off the channel and answers them, one after the other.
//!
//! Knows the order of a conversation, not how anything is done.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, RawFd};

use rustix::process::{
    DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal,
};

use crate::close;
use crate::files::{self, Upload};
use crate::kernel;
use crate::mounts::GuestMounts;
use crate::protocol::{self, Answer, Problem, ProblemKind, Request, VERSION};
use crate::steps::Runner;
use crate::sys;
use crate::volatile::Volatile;

/// The connection to impasto.
pub(crate) struct Channel(File);

impl Channel {
    pub(crate) fn send(&mut self, answer: &Answer) -> io::Result<()> {
        protocol::write(&mut self.0, answer)
    }

    fn receive(&mut self) -> io::Result<Option<Request>> {
        protocol::read(&mut self.0)
    }
}

/// Serves until the job is finished. `terminal` is what a shell reads from.
pub(crate) fn serve(terminal: Option<RawFd>) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Guest processes are root as well; they must not look into the one that holds the channel.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let mut channel = Channel(File::from(io::stdin().as_fd().try_clone_to_owned()?));
    let runner = Runner::new(terminal.and_then(sys::inherited))?;
    let Some(Request::Hello { version, nonce }) = channel.receive()? else {
        return Err(out_of_order());
    };
    if version != VERSION {
        return Err(out_of_order());
    }
    channel.send(&Answer::Ok)?;
    let Some(Request::Setup(setup)) = channel.receive()? else {
        return Err(out_of_order());
    };
    let guest_mounts = match GuestMounts::make(setup) {
        Ok(guest_mounts) => guest_mounts,
        Err(problem) => {
            channel.send(&Answer::Problem(problem))?;
            return Err(io::ErrorKind::Other.into());
        }
    };
    channel.send(&Answer::Made {
        root: guest_mounts.root(),
        mounted: guest_mounts.mounted(),
    })?;
    converse(&mut channel, &runner, &guest_mounts)?;
    runner.kill_remaining();
    match close::close(guest_mounts) {
        Ok(()) => channel.send(&Answer::Done { nonce }),
        Err(problem) => {
            channel.send(&Answer::Problem(problem))?;
            Err(io::ErrorKind::Other.into())
        }
    }
}

/// Everything between `Setup` and `Finish`.
fn converse(channel: &mut Channel, runner: &Runner, guest_mounts: &GuestMounts) -> io::Result<()> {
    let mut upload: Option<Result<Upload, Problem>> = None;
    let mut volatile = Volatile::default();
    loop {
        let answer = match channel.receive()?.ok_or(io::ErrorKind::UnexpectedEof)? {
            Request::Finish => return Ok(()),
            Request::PutFile { place, name, mode } => {
                upload = Some(Upload::begin(place, &name, mode));
                continue;
            }
            Request::Data(bytes) => {
                // After a failure the rest is swallowed: the answer comes with `End`.
                upload = upload.map(|upload| upload.and_then(|upload| upload.write(&bytes)));
                continue;
            }
            Request::End => {
                let upload = upload.take().unwrap_or_else(|| Err(unexpected()));
                upload
                    .and_then(|upload| upload.end(guest_mounts.setup.source_date_epoch))
                    .map(|()| Answer::Ok)
            }
            Request::Step(step) => runner.run(channel, guest_mounts, &step)?,
            Request::Shell { line } => runner.shell(guest_mounts, line.as_deref()),
            Request::Examine { files } => Ok(Answer::Facts(runner.facts(guest_mounts, &files))),
            Request::KillRemaining => {
                runner.kill_remaining();
                Ok(Answer::Ok)
            }
            // Everything for the steps is there now.
            Request::SnapshotVolatile { volatile: paths } => {
                kernel::close_secrets().and_then(|()| {
                    volatile = Volatile::snapshot(guest_mounts, &paths)?;
                    Ok(Answer::Ok)
                })
            }
            Request::RestoreVolatile => volatile.restore().map(|()| Answer::Ok),
            Request::Collect { path, most } => files::collect(channel, &path, most)?,
            Request::Hello { .. } | Request::Setup(_) => Err(unexpected()),
        };
        channel.send(&answer.unwrap_or_else(Answer::Problem))?;
    }
}

fn unexpected() -> Problem {
    Problem::new(ProblemKind::Protocol, "a request came out of order")
}

fn out_of_order() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a request came out of order")
}
