//! What a step is given: files and trees copied in, and the steps that lay them out.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use impasto_stages::action::{Action, Bound, Step};
use impasto_store::inputs::TreeNode;
use impasto_store::meter::Metered;

use super::{Staged, keeps_times, parse_owner};
use crate::engine::inputs::{Input, copy_file, pack_tree};
use crate::engine::job::{Job, JobError, JobInput, create, install};
use crate::sandbox::{AgentStep, InputKind};
use crate::source::tree;

impl Job {
    /// Copies an input to where nobody else writes: its permission bits, and what it is there. The files of a tree get the
    /// time `epoch`, in seconds since 1970, or keep their own where that is none. `is_listed` is whether a program may list
    /// a directory of it: in which order that happens differs between builds.
    pub(in crate::engine::job) fn lay_out(
        &self,
        input: &JobInput,
        epoch: Option<u64>,
        file: &mut File,
        path: &Path,
        is_listed: bool,
    ) -> Result<(u32, InputKind), JobError> {
        Ok(match input {
            JobInput::Local {
                path: from,
                input: Input::File(planned),
                scope,
            } => {
                copy_file(scope, from, file, planned.blob.digest)?;
                (planned.mode, InputKind::File)
            }
            JobInput::Local {
                path: from,
                input: Input::Tree { entries, .. },
                scope,
            } => {
                let mut entries: std::borrow::Cow<'_, [_]> = entries.into();
                if is_listed && self.context.sandbox.environment.reordered {
                    // Directories come before what they hold.
                    entries
                        .to_mut()
                        .sort_by_key(|entry| Reverse(matches!(entry.node, TreeNode::Dir(_))));
                    let files =
                        entries.partition_point(|entry| matches!(entry.node, TreeNode::Dir(_)));
                    entries.to_mut()[files..].reverse();
                }
                pack_tree(scope, from, &entries, epoch, &mut io::BufWriter::new(file))?;
                (0o755, InputKind::Tar)
            }
            JobInput::Blob { from, blob, mode } => {
                let mut reader = self
                    .store
                    .open_blob(&blob.digest)
                    .map_err(Self::missed(*from))?;
                self.meter.begin("copying", Some(blob.size));
                io::copy(&mut reader, &mut Metered::new(file, &self.meter))
                    .map_err(JobError::io("write", path))?;
                (*mode, InputKind::File)
            }
            JobInput::Tree { from, archive } => {
                let mut reader = self
                    .store
                    .open_blob(&archive.digest)
                    .map_err(Self::missed(*from))?;
                self.meter.begin("copying", Some(archive.size));
                let mut out = Metered::new(io::BufWriter::new(file), &self.meter);
                tree::with_time(&mut reader, epoch.unwrap_or_default(), &mut out)
                    .and_then(|()| out.flush())
                    .map_err(JobError::io("write", path))?;
                (0o755, InputKind::Tar)
            }
            JobInput::Derived {
                from,
                disk,
                derived,
                mode,
            } => {
                self.write_again(*from, disk, derived, file)?;
                (*mode, InputKind::File)
            }
        })
    }

    /// Copies everything that the steps read to where nobody else writes, and names it for the agent.
    pub(in crate::engine::job) fn stage_inputs(
        &self,
        action: &Action<Bound>,
        scratch: &Path,
        staged: &mut Staged,
    ) -> Result<(), JobError> {
        let mut kinds = BTreeMap::new();
        let packages = |name: &str| action.packages.is_some() && name.starts_with(install::LOCAL);
        for (place, (name, input)) in self
            .inputs
            .iter()
            .enumerate()
            .filter(|(_, (name, _))| !packages(name))
        {
            let path = scratch.join(format!("input-{place}"));
            let mut file = create(&path)?;
            let used_by_step = action
                .steps
                .iter()
                .any(|step| matches!(step, Step::CopyIn { input, .. } if input == name));
            let epoch =
                (!keeps_times(action, name)).then(|| action.source_date_epoch.unwrap_or_default());
            let (mode, kind) = self.lay_out(input, epoch, &mut file, &path, !used_by_step)?;
            kinds.insert(name.clone(), kind);
            let name = match kind {
                // A tree that scripts read is laid out beside the files, under its own name.
                InputKind::Tar if !used_by_step => {
                    // No user's name begins like this.
                    let (input, dest) = (
                        format!("-tree-{place}"),
                        format!("/run/impasto/inputs/{name}"),
                    );
                    let step = AgentStep::CopyIn {
                        input: input.clone(),
                        dest,
                        mode: None,
                        owner: None,
                        kind,
                        modified: None,
                    };
                    staged.steps.push(step);
                    staged.unpacked += 1;
                    input
                }
                _ => name.clone(),
            };
            staged.inputs.push((name, mode, path));
        }
        for (index, step) in action.steps.iter().enumerate() {
            let step = self.stage_step(index, step, &kinds, scratch, staged)?;
            staged.steps.push(step);
        }
        Ok(())
    }

    /// A step as the agent takes it; what it reads beside inputs is staged. `kinds` says what each input is.
    fn stage_step(
        &self,
        index: usize,
        step: &Step,
        kinds: &BTreeMap<String, InputKind>,
        scratch: &Path,
        staged: &mut Staged,
    ) -> Result<AgentStep, JobError> {
        Ok(match step {
            Step::Script { text } => {
                let name = format!("script-{index}");
                staged
                    .scripts
                    .push((name.clone(), text.clone().into_bytes()));
                AgentStep::Script { name }
            }
            Step::WorkIn { dir, user } => AgentStep::WorkIn {
                dir: dir.clone(),
                user: user.clone(),
            },
            Step::ShowRoot => AgentStep::ShowRoot,
            Step::Command { line } => AgentStep::Command { line: line.clone() },
            Step::CopyIn {
                input,
                dest,
                mode,
                owner,
                keep_times,
            } => AgentStep::CopyIn {
                input: input.clone(),
                dest: dest.clone(),
                mode: *mode,
                owner: owner.as_deref().map(parse_owner),
                kind: kinds[input],
                modified: self.inputs.iter().find(|(name, _)| name == input).and_then(
                    |(_, found)| match found {
                        JobInput::Local {
                            input: Input::File(file),
                            ..
                        } if *keep_times => Some(file.modified),
                        _ => None,
                    },
                ),
            },
            Step::WriteFile {
                dest,
                text,
                mode,
                owner,
            } => {
                let input = format!("text-{index}");
                let path = scratch.join(&input);
                create(&path)?
                    .write_all(text.as_bytes())
                    .map_err(JobError::io("write", &path))?;
                staged.inputs.push((input.clone(), *mode, path));
                let (dest, owner) = (dest.clone(), owner.as_deref().map(parse_owner));
                AgentStep::CopyIn {
                    input,
                    dest,
                    mode: Some(*mode),
                    owner,
                    kind: InputKind::File,
                    modified: None,
                }
            }
            Step::Import { .. }
            | Step::Fetch { .. }
            | Step::Convert { .. }
            | Step::Bootstrap { .. }
            | Step::Debs
            | Step::Vendor { .. }
            | Step::Vendored { .. }
            | Step::Test { .. }
            | Step::TestReport { .. }
            | Step::Initramfs { .. }
            | Step::Archive { .. }
            | Step::Iso { .. }
            | Step::FetchGit { .. }
            | Step::Unpack { .. }
            | Step::AssembleDisk { .. }
            | Step::Resize { .. } => {
                panic!("BUG: a step for others was sent to a guest")
            }
        })
    }
}
