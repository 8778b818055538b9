//! Files of a job: into the guest before its steps, and back after them.
//! Knows frames of data and limits, not what the files are for.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rustix::io::Errno;
use serde_bytes::ByteBuf;

use super::{GuestSession, SessionError, unexpected};
use crate::base::bounded;
use crate::sandbox::limits::Culprit;
use crate::sandbox::protocol::{Answer, EMULATOR, Limit, MAX_DATA, Problem, Request, RunSubdir};
use crate::sandbox::{Outcome, Output, SandboxError, SandboxInput};

impl GuestSession<'_> {
    pub(super) fn put_all(
        &mut self,
        inputs: Vec<SandboxInput<'_>>,
        scripts: &[(String, Vec<u8>)],
        secrets: &[(String, Vec<u8>)],
    ) -> Result<(), SessionError> {
        for (name, bytes) in scripts {
            self.put(RunSubdir::Scripts, name, 0o755, &mut bytes.as_slice())?;
        }
        for (name, bytes) in secrets {
            if bytes.len() as u64 > self.bounds.limits.secret {
                return Err(self.reached_by(Limit::Secret, name));
            }
            self.put(RunSubdir::Secrets, name, 0o400, &mut bytes.as_slice())?;
        }
        for SandboxInput { name, mode, path } in inputs {
            let mut file = bounded::open(path).map_err(SandboxError::io("open", path))?;
            self.put(RunSubdir::Inputs, &name, mode, &mut file)?;
        }
        Ok(())
    }

    pub(super) fn put_emulator(&mut self, program: &[u8]) -> Result<(), SessionError> {
        self.put(RunSubdir::Scripts, EMULATOR, 0o755, &mut &*program)
    }

    fn reached_by(&self, limit: Limit, name: &str) -> SessionError {
        SessionError::Limit(
            self.bounds
                .reached(limit, Some(Culprit::Named(name.to_owned()))),
        )
    }

    fn put(
        &mut self,
        place: RunSubdir,
        name: &str,
        mode: u32,
        content: &mut dyn Read,
    ) -> Result<(), SessionError> {
        self.link.send(&Request::PutFile {
            place,
            name: name.to_owned(),
            mode,
        })?;
        let mut buffer = vec![0; MAX_DATA];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => {
                    return self
                        .demand_ok(&Request::End)
                        .map_err(|problem| match problem {
                            // Files for the job lie in memory too.
                            SessionError::Problem(problem)
                                if problem.errno == Some(Errno::NOSPC.raw_os_error()) =>
                            {
                                self.reached_by(Limit::Tmpfs, name)
                            }
                            other => other,
                        });
                }
                Ok(count) => self
                    .link
                    .send(&Request::Data(ByteBuf::from(&buffer[..count])))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(SandboxError::io("read", name)(error).into());
                }
            }
        }
    }

    pub(super) fn collect_all(
        &mut self,
        outputs: &[(String, String)],
        work: &Path,
    ) -> Result<(Outcome, Vec<Output>), SessionError> {
        let mut collected = Vec::with_capacity(outputs.len());
        for (index, (name, path)) in outputs.iter().enumerate() {
            let file = work.join(format!("output-{index}"));
            match self.collect(name, path, &file)? {
                Ok(output) => collected.push(output),
                Err(problem) => {
                    return Ok((
                        Outcome::OutputRefused {
                            name: name.clone(),
                            problem,
                        },
                        Vec::new(),
                    ));
                }
            }
        }
        Ok((Outcome::Ok, collected))
    }

    fn collect(
        &mut self,
        name: &str,
        path: &str,
        to: &Path,
    ) -> Result<Result<Output, Problem>, SessionError> {
        let (size, mode) = match self.ask(&Request::Collect {
            path: path.to_owned(),
            most: self.bounds.limits.output,
        })? {
            Answer::Output { size, mode } => (size, mode),
            Answer::Problem(problem) => return Ok(Err(problem)),
            _ => return Err(unexpected()),
        };
        let mut file = File::create_new(to).map_err(SandboxError::io("create", to))?;
        let mut left = size;
        loop {
            match self.link.receive()? {
                Answer::Data(bytes) if bytes.len() as u64 <= left => {
                    file.write_all(&bytes)
                        .map_err(SandboxError::io("write", to))?;
                    left -= bytes.len() as u64;
                }
                Answer::Hole(count) if count <= left => {
                    file.seek_relative(count.cast_signed())
                        .map_err(SandboxError::io("write", to))?;
                    left -= count;
                }
                Answer::Limit(limit) => return Err(self.reached_by(limit, name)),
                Answer::Ok if left == 0 => break,
                Answer::Problem(problem) => return Ok(Err(problem)),
                _ => return Err(unexpected()),
            }
        }
        // A hole at the end is not written.
        file.set_len(size).map_err(SandboxError::io("write", to))?;
        Ok(Ok(Output {
            name: name.to_owned(),
            path: to.to_path_buf(),
            size,
            mode,
        }))
    }
}
