//! The host's end of the channel: frames with a deadline, so that nothing in a sandbox can hold impasto up.
//!
//! Knows frames and time, not what they mean.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::limits::Group;
use super::protocol::{self, Limit, MAX_FRAME};
use super::terminal;
use crate::base::cancel::CancelToken;

/// How soon a cancelled job notices.
const TICK: Duration = Duration::from_millis(20);

/// How often the job's control groups are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Why no frame came or went.
#[derive(Debug)]
pub(super) enum LinkError {
    /// The time is over.
    TimedOut,
    Cancelled,
    /// The job's control groups have come to a limit.
    Limit(Limit),
    /// The other side has gone, or speaks garbage.
    Broken(String),
}

/// A channel with buffer, deadline and token.
pub(super) struct Link {
    socket: UnixStream,
    inbox: Vec<u8>,
    deadline: Option<Instant>,
    cancel: CancelToken,
    group: Option<Group>,
    next_look: Instant,
}

impl Link {
    pub(super) fn new(
        socket: UnixStream,
        deadline: Option<Instant>,
        cancel: CancelToken,
        group: Option<Group>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            inbox: Vec::new(),
            deadline,
            cancel,
            group,
            next_look: Instant::now() + LOOK_INTERVAL,
        })
    }

    /// The limit that the job's control groups have come to.
    pub(super) fn reached(&self) -> Option<Limit> {
        self.group.as_ref()?.reached()
    }

    /// The control groups, to be kept until everything has ended that is in them.
    pub(super) fn take_group(&mut self) -> Option<Group> {
        self.group.take()
    }

    fn look(&mut self) -> Result<(), LinkError> {
        if Instant::now() < self.next_look {
            return Ok(());
        }
        self.next_look = Instant::now() + LOOK_INTERVAL;
        self.reached()
            .map_or(Ok(()), |limit| Err(LinkError::Limit(limit)))
    }

    /// Sends one message, whole.
    pub(super) fn send<T: Serialize>(&mut self, message: &T) -> Result<(), LinkError> {
        let frame = protocol::encode(message).map_err(|e| LinkError::Broken(e.to_string()))?;
        let mut left = frame.as_slice();
        while !left.is_empty() {
            match self.socket.write(left) {
                Ok(count) => left = &left[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::OUT)?
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LinkError::Broken(error.to_string())),
            }
        }
        Ok(())
    }

    /// Hands over the terminal, after a message that announced it.
    pub(super) fn send_terminal(&mut self) -> Result<(), LinkError> {
        self.wait(PollFlags::OUT)?;
        terminal::send(&self.socket).map_err(|e| LinkError::Broken(e.to_string()))
    }

    /// Waits for one message.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> Result<T, LinkError> {
        let mut buffer = [0; 64 << 10];
        loop {
            match protocol::decode(&self.inbox) {
                Ok(Some((message, length))) => {
                    self.inbox.drain(..length);
                    self.look()?;
                    return Ok(message);
                }
                Ok(None) => {}
                Err(error) => return Err(LinkError::Broken(error.to_string())),
            }
            debug_assert!(self.inbox.len() <= MAX_FRAME + 4 + buffer.len());
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(LinkError::Broken("it ended without a message".to_owned())),
                Ok(count) => self.inbox.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::IN)?
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LinkError::Broken(error.to_string())),
            }
        }
    }

    fn wait(&mut self, flags: PollFlags) -> Result<(), LinkError> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(LinkError::Cancelled);
            }
            self.look()?;
            let now = Instant::now();
            let left = self
                .deadline
                .map(|deadline| deadline.saturating_duration_since(now));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(LinkError::TimedOut);
            }
            let tick = left.map_or(TICK, |left| left.min(TICK));
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: i64::from(tick.subsec_nanos()).max(1),
            };
            match poll(&mut [PollFd::new(&self.socket, flags)], Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(LinkError::Broken(error.to_string())),
            }
        }
    }
}
