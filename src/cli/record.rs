//! What a build shows and leaves in files: flags, the view that fits standard error, the end.
//! Knows flags and the place where it runs; what is shown and written is `ui`'s.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Args;

use super::error::CliError;
use super::session::{Loaded, Session};
use super::{ProgressMode, exit};
use crate::base::table;
use crate::ui::{
    self, Ending, FileLine, Json, Live, Plain, RecordPaths, Records, Reporter, Service, Verdict,
};

/// What a build shows and leaves beside its results.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RecordArgs {
    /// Prints all output of stages as it comes
    #[arg(long, short)]
    verbose: bool,
    /// Writes a summary in Markdown: stages, files and failures, even if the build fails or is interrupted
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Writes the output of each stage that runs to STAGE.log in this directory
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Writes a trace of the build, for Perfetto, speedscope or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

impl RecordArgs {
    /// Opens what is to be written: what cannot be is an error before anything starts.
    pub(super) fn open(&self, session: &Session) -> Result<Records, CliError> {
        let full = |path: &Option<PathBuf>| path.as_ref().map(|path| session.host.cwd.join(path));
        let paths = RecordPaths {
            summary: full(&self.summary),
            logs: full(&self.logs),
            trace: full(&self.trace),
        };
        if paths == RecordPaths::default() {
            return Ok(Records::default());
        }
        if paths.summary.is_some() && paths.summary == paths.trace {
            return Err(CliError::usage(
                "--summary and --trace name the same file",
                "give them different names",
            ));
        }
        Ok(Records::open(
            &paths,
            &session.host.owner(),
            &session.host.cwd,
        )?)
    }
}

/// What shows a run on standard error, or as JSON on standard output.
pub(super) fn view(session: &Session, args: &RecordArgs, loaded: &Loaded) -> Box<dyn Reporter> {
    let host = &session.host;
    match session.global.progress {
        ProgressMode::Json => return Box::new(Json::default()),
        ProgressMode::Auto | ProgressMode::Live if host.draws() && !args.verbose => {
            return Box::new(Live::new(&host.cwd, host.colour(), session.start));
        }
        // There is nothing to draw on, or it would be drawn over what is to be read.
        ProgressMode::Auto | ProgressMode::Live | ProgressMode::Plain => {}
    }
    let plain = Plain::new(&host.cwd);
    let plain = if args.verbose { plain.verbose() } else { plain };
    Box::new(match Service::of(host) {
        Some(service) => {
            let epoch = host.now().saturating_sub(session.start.elapsed().as_secs());
            plain.for_service(service, epoch, places(session, loaded))
        }
        None => plain,
    })
}

/// Where stages are defined, by their names.
fn places(session: &Session, loaded: &Loaded) -> HashMap<String, FileLine> {
    let sources = &loaded.recipe.sources;
    let stages = loaded
        .recipe
        .combinations
        .iter()
        .flat_map(|combination| &combination.stages);
    let places = stages.filter_map(|stage| {
        let (text, (line, _)) = (sources.get(stage.span.file)?, sources.position(stage.span));
        Some((
            stage.name.to_string(),
            ui::ci_place(&text.name, line, &session.host.cwd)?,
        ))
    });
    places.collect()
}

/// Writes what is to be written of a build, however it ended, and gives its exit code.
pub(super) fn close(
    session: &Session,
    records: Records,
    recipe: Option<String>,
    outcome: Result<u8, CliError>,
) -> Result<u8, CliError> {
    let verdict = match &outcome {
        _ if session.interrupt.is_interrupted() => Verdict::Interrupted,
        Ok(exit::OK) => Verdict::Done,
        Ok(exit::INTERRUPTED) => Verdict::Interrupted,
        Ok(_) => Verdict::Failed,
        Err(error) => Verdict::Error(table::strip(&error.render(&session.host))),
    };
    let errors = records.close(&Ending {
        recipe,
        verdict,
        at: session.start.elapsed(),
    });
    let failed = !errors.is_empty();
    errors
        .into_iter()
        .for_each(|error| CliError::from(error).show(&session.host));
    match outcome {
        Ok(exit::OK) if failed => Ok(exit::INTERNAL),
        outcome => outcome,
    }
}
