//! Loads a recipe: reads its files, evaluates it for every chosen combination, and reports all that is wrong.
//! Knows the order of the steps; each step is another module's.

mod expand;
mod locals;
mod paths;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hcl_edit::structure::Body;
use impasto_stages::action::Cutoff;
use impasto_stages::{Data, Number, Registry, Value};

use super::blocks;
use super::collect::{Collector, Decl, Declarations};
use super::convert;
use super::diagnostic::{Diagnostic, Diagnostics, Lack, Severity, Sources, Span};
use super::eval::{Evaluator, Failed, LocalValue};
use super::expr::{Names, RootExpr};
use super::files::Files;
use super::image::ImageText;
use super::lower::{Allowed, Lowering};
use super::matrix::Matrix;
use super::model::Recipe;
use super::stage::{Common, KindErrors, StageText};
use super::syntax;
use super::vars::Variables;

use crate::base::bounded;
use crate::recipe::scope::{Outside, Scope};

use expand::{MAX_BESIDE, StageExpansion};
use locals::{extend_way, order};
pub(super) use paths::RecipePaths;
pub use paths::recipe_files;

/// What to load, and the values from outside.
#[derive(Debug, Clone, Default)]
pub struct LoadRequest {
    /// An `.hcl` file, or a directory whose `*.hcl` files are read as one recipe (not `*.vars.hcl`, not Packer's files, not
    /// hidden ones).
    pub path: PathBuf,
    /// `--var NAME=VALUE`; of equal names the last one counts.
    pub vars: Vec<(String, String)>,
    /// `--var-file FILE`: HCL, or JSON where the name ends in `.json`; of equal names the last file's counts.
    pub var_files: Vec<PathBuf>,
    /// `IMPASTO_VAR_NAME` of the environment, without the prefix.
    pub env: Vec<(String, String)>,
    /// The whole environment, for `env()`.
    pub host_env: BTreeMap<String, String>,
    /// `--only AXIS=VALUE,VALUE`.
    pub only: Vec<String>,
    /// The user's home directory, absolute and without links: neither it nor a directory above it is a repository.
    pub home: Option<PathBuf>,
    /// Directories beside its repository that the recipe may read.
    pub allow_paths: Vec<PathBuf>,
}

/// Loads a recipe.
///
/// # Errors
/// Everything that is wrong with it: all semantic errors of all files, or of syntax errors the first of each file.
pub fn load(request: &LoadRequest, registry: &Registry) -> Result<Recipe, Diagnostics> {
    let mut sources = Sources::default();
    let mut problems = Vec::new();
    let place = match RecipePaths::new(&request.path) {
        Ok(place) => place,
        Err(diagnostic) => return Err(Diagnostics::new(vec![diagnostic], Arc::new(sources))),
    };
    let scope = Scope::new(&place.dir, request.home.as_deref(), &request.allow_paths).map_err(
        |(path, error)| {
            let message = format!(
                "cannot open the directory {}, which the recipe may read: {error}",
                path.display()
            );
            Diagnostics::new(
                vec![Diagnostic::error(message)],
                Arc::new(Sources::default()),
            )
        },
    )?;
    let mut bodies = Vec::new();
    for (shown, full) in &place.files {
        match read(shown, full, &scope, &mut sources) {
            Ok(body) => bodies.push(body),
            Err(diagnostic) => problems.push(diagnostic),
        }
    }
    if !problems.is_empty() {
        return Err(Diagnostics::new(problems, Arc::new(sources)));
    }
    evaluate(request, registry, place, Arc::new(scope), &bodies, sources)
}

/// Parses and evaluates bytes as a recipe of one file, without any other file. For tests and fuzzing.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_bytes(bytes: &[u8], registry: &Registry) -> Result<Recipe, Diagnostics> {
    let mut sources = Sources::default();
    let (file, checked) = syntax::add(&mut sources, "recipe.hcl", "recipe.hcl", bytes.to_vec());
    let text = sources
        .get(file)
        .map(|text| text.text.clone())
        .unwrap_or_default();
    match checked.and_then(|()| syntax::parse_body(&text, file)) {
        Ok(body) => {
            // Nothing lies below a path that no file system has.
            let dir = PathBuf::from("/dev/null/recipe");
            let (path, name) = (dir.join("recipe.hcl"), "recipe".to_owned());
            let place = RecipePaths {
                path,
                dir,
                shown: PathBuf::new(),
                files: Vec::new(),
                values: Vec::new(),
                name,
            };
            let scope = Arc::new(Scope::nothing());
            evaluate(
                &LoadRequest::default(),
                registry,
                place,
                scope,
                &[(file, body)],
                sources,
            )
        }
        Err(diagnostic) => Err(Diagnostics::new(vec![diagnostic], Arc::new(sources))),
    }
}

fn read(
    path: &Path,
    full: &Path,
    scope: &Scope,
    sources: &mut Sources,
) -> Result<(u32, Body), Diagnostic> {
    let shown = path.display().to_string();
    let bytes = scope
        .open_file(full)
        .and_then(|file| bounded::read_open(file, bounded::TEXT))
        .map_err(|error| {
            let diagnostic = Diagnostic::error(format!("cannot read {shown}: {error}"));
            diagnostic.maybe_help(Outside::of(&error).map(Outside::help))
        })?;
    let short = full
        .file_name()
        .unwrap_or(full.as_os_str())
        .to_string_lossy()
        .into_owned();
    let (file, checked) = syntax::add(sources, &shown, &short, bytes);
    checked?;
    let text = sources
        .get(file)
        .map(|text| text.text.clone())
        .unwrap_or_default();
    Ok((file, syntax::parse_body(&text, file)?))
}

fn evaluate(
    request: &LoadRequest,
    registry: &Registry,
    place: RecipePaths,
    scope: Arc<Scope>,
    bodies: &[(u32, Body)],
    sources: Sources,
) -> Result<Recipe, Diagnostics> {
    let mut collector = Collector::new();
    for (file, body) in bodies {
        collector.file(*file, body);
    }
    let Collector {
        found,
        names,
        diagnostics,
        ..
    } = collector;
    let files = Files::new(
        place.dir.clone(),
        place.shown.clone(),
        scope.clone(),
        request.host_env.clone(),
    );
    let mut eval = Evaluator::new(files, sources);
    eval.diagnostics = diagnostics;
    let texts = bodies
        .iter()
        .filter_map(|(file, _)| eval.sources.get(*file));
    let bytes = texts.map(|text| text.text.len()).sum();
    eval.budget.add_text(bytes);
    if found.stages.is_empty() && eval.diagnostics.is_empty() {
        let file = bodies.first().map_or(0, |(file, _)| *file);
        let diagnostic = Diagnostic::at(
            Span {
                file,
                start: 0,
                end: 0,
            },
            "the recipe has no stages",
        );
        eval.diagnostics.push(diagnostic.lacks(Lack::Stages));
    }
    // Who names a file of variables knows how they are given.
    if let Some(name) = place
        .values
        .first()
        .filter(|_| request.var_files.is_empty())
    {
        let path = place.shown.join(name);
        let message = format!("`{}` is not read automatically", path.display());
        let help = format!("pass it with --var-file {}", path.display());
        eval.diagnostics
            .push(Diagnostic::error(message).warning().help(help));
    }
    Variables {
        request,
        decls: &found.variables,
        names: &names,
        eval: &mut eval,
        unsure: false,
    }
    .run();
    let loader = Loader {
        registry,
        place,
        scope,
        found: &found,
        names: &names,
        request,
    };
    loader.run(eval)
}

struct Loader<'r, 't> {
    registry: &'r Registry,
    place: RecipePaths,
    scope: Arc<Scope>,
    found: &'r Declarations<'t>,
    names: &'r Names,
    request: &'r LoadRequest,
}

/// A local's expression and the axes that it looks at.
struct Local {
    id: usize,
    root: RootExpr,
    axes: u64,
}

impl Loader<'_, '_> {
    fn run(self, mut eval: Evaluator) -> Result<Recipe, Diagnostics> {
        self.environment(&mut eval);
        eval.locals = vec![LocalValue::Unset; self.found.locals.len()];
        let locals = self.locals(&mut eval);
        let mut local_axes = vec![0; self.found.locals.len()];
        locals
            .iter()
            .for_each(|local| local_axes[local.id] = local.axes);
        for local in locals.iter().filter(|local| local.axes == 0) {
            self.local(local, &mut eval);
        }
        let head = self.head(&mut eval, &local_axes);
        // With a matrix or a choice that is wrong the rest is still checked, as far as it can be.
        let matrix = Matrix::evaluate(
            self.found.matrix.as_ref(),
            self.names,
            &local_axes,
            &mut eval,
        );
        let matrix = matrix.unwrap_or_else(|Failed| Matrix::none());
        let chosen = matrix.choose(
            &self.request.only,
            self.found.matrix.is_some(),
            &mut eval.diagnostics,
        );
        let common = Common {
            registry: self.registry,
            source_date_epoch: head.source_date_epoch,
            local_axes: &local_axes,
        };
        let (stages, images) = self.lower(&common, &mut eval);
        let expand = StageExpansion {
            loader: &self,
            matrix: &matrix,
            locals: &locals,
            common: &common,
            stages,
            images,
        };
        let combinations = expand.run(&chosen, &mut eval);
        let sources = Arc::new(eval.sources);
        let mut found = eval.diagnostics;
        if let Some(report) = eval.budget.into_report() {
            // What failed for want of it need not be told.
            found.truncate(MAX_BESIDE);
            found.push(report);
        }
        let all = Diagnostics::new(found, sources.clone());
        if all.errors() > 0 {
            return Err(all);
        }
        debug_assert!(
            all.list
                .iter()
                .all(|diagnostic| diagnostic.severity == Severity::Warning)
        );
        Ok(Recipe {
            name: head.name.unwrap_or(self.place.name),
            source_date_epoch: head.source_date_epoch,
            cutoff: head.cutoff,
            path: self.place.path,
            dir: self.place.dir,
            scope: self.scope,
            axes: matrix.axes(),
            combinations,
            stage_names: self.names.stages.keys().cloned().collect(),
            sources,
            warnings: all,
        })
    }

    fn lowering<'d>(
        &'d self,
        file: u32,
        eval: &Evaluator,
        out: &'d mut Vec<Diagnostic>,
    ) -> Option<Lowering<'d>> {
        Some(Lowering::new(
            file,
            eval.sources.get(file)?.clone(),
            self.names,
            out,
        ))
    }

    /// Lowers the locals and brings them into an order in which each comes after those that it uses.
    fn locals(&self, eval: &mut Evaluator) -> Vec<Local> {
        let mut out = Vec::new();
        let mut roots = Vec::with_capacity(self.found.locals.len());
        for (file, attr) in &self.found.locals {
            let Some(mut lowering) = self.lowering(*file, eval, &mut out) else {
                continue;
            };
            roots.push(Some(lowering.root(attr.value, Allowed::ALL)));
        }
        eval.diagnostics.append(&mut out);
        let uses: Vec<Vec<u32>> = roots
            .iter()
            .map(|root| {
                root.as_ref()
                    .map(|root| root.uses.locals.clone())
                    .unwrap_or_default()
            })
            .collect();
        let (order, circle) = order(&uses);
        if let Some(circle) = circle {
            let names: Vec<&str> = circle
                .iter()
                .chain(circle.first())
                .map(|id| self.found.locals[*id].1.name)
                .collect();
            let message = format!("dependency cycle of locals: {}", names.join(" -> "));
            let mut diagnostic = Diagnostic::at(self.found.locals[circle[0]].1.span, message);
            for id in &circle[1..] {
                diagnostic = diagnostic.also(self.found.locals[*id].1.span, "through this one");
            }
            eval.diagnostics
                .push(diagnostic.help("write out the value of one of them"));
        }
        let mut axes = vec![0u64; roots.len()];
        let mut locals = Vec::with_capacity(order.len());
        for id in order {
            let Some(root) = roots.get_mut(id).and_then(Option::take) else {
                continue;
            };
            axes[id] = root
                .uses
                .locals
                .iter()
                .fold(root.uses.axes, |all, local| all | axes[*local as usize]);
            locals.push(Local {
                id,
                axes: axes[id],
                root,
            });
        }
        locals
    }

    /// Evaluates a local in the current combination.
    fn local(&self, local: &Local, eval: &mut Evaluator) {
        let (_, attr) = &self.found.locals[local.id];
        let mut result = eval.eval(&local.root.expr);
        if let Ok(value) = &mut result
            && convert::is_sensitive(value)
        {
            let step = format!("local `{}` ({})", attr.name, eval.sources.place(attr.span));
            extend_way(value, &step, &mut HashMap::new());
        }
        eval.locals[local.id] = match result {
            Ok(value) => LocalValue::Ready(value),
            Err(Failed) => LocalValue::Failed,
        };
    }

    /// Which names of the environment the recipe reads: known before anything else is evaluated.
    fn environment(&self, eval: &mut Evaluator) {
        let Some(decl) = &self.found.recipe else {
            return;
        };
        let Some(attr) = decl.attr("environment") else {
            return;
        };
        let Ok((value, span)) = self.early(decl, attr.value, Allowed::ENVIRONMENT, &[], eval)
        else {
            return;
        };
        let names = match &value.data {
            Data::List(items) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect(),
            _ => None,
        };
        match names {
            Some(names) => eval.environment.named = names,
            None => {
                let message = format!(
                    "`environment` is {}, not a list of names",
                    convert::show(&value)
                );
                eval.diagnostics
                    .push(Diagnostic::at(span, message).help("write `environment = [\"NAME\"]`"));
            }
        }
    }

    fn head(&self, eval: &mut Evaluator, local_axes: &[u64]) -> BlockHead {
        let mut head = BlockHead::default();
        let Some(decl) = &self.found.recipe else {
            return head;
        };
        Collector::known(&mut eval.diagnostics, "the recipe", decl, &blocks::RECIPE);
        // What `environment` says was taken before anything else.
        for attr in decl.attrs.iter().filter(|attr| attr.name != "environment") {
            let Ok((value, span)) = self.early(decl, attr.value, Allowed::RECIPE, local_axes, eval)
            else {
                continue;
            };
            match attr.name {
                "name" => match value.as_str() {
                    Some(name)
                        if !name.is_empty()
                            && !name.chars().any(|c| c == '/' || c.is_control()) =>
                    {
                        head.name = Some(name.to_owned());
                    }
                    _ => {
                        let message =
                            format!("{} is not a valid name for a recipe", convert::show(&value));
                        eval.diagnostics
                            .push(Diagnostic::at(span, message).help("use a string without `/`"));
                    }
                },
                "source_date_epoch" => match convert::to_number(&value) {
                    Some(Number::Int(seconds)) if seconds >= 0 => {
                        head.source_date_epoch = Some(seconds as u64)
                    }
                    _ if value.data == Data::Null => {}
                    _ => {
                        let message = format!(
                            "{} is not a valid time in seconds since 1970",
                            convert::show(&value)
                        );
                        eval.diagnostics
                            .push(Diagnostic::at(span, message).help("`date +%s` prints one"));
                    }
                },
                "cutoff" => match value.as_str().map(Cutoff::named) {
                    Some(Some(cutoff)) => head.cutoff = cutoff,
                    _ if value.data == Data::Null => {}
                    _ => {
                        let message = format!("{} is not a valid cutoff", convert::show(&value));
                        let help = "use \"tree\", \"bytes\" or \"off\"";
                        eval.diagnostics
                            .push(Diagnostic::at(span, message).help(help));
                    }
                },
                _ => {}
            }
        }
        head
    }

    /// Evaluates what comes before the matrix. Sensitive values have no place there.
    fn early(
        &self,
        decl: &Decl<'_>,
        value: &hcl_edit::expr::Expression,
        allowed: Allowed,
        local_axes: &[u64],
        eval: &mut Evaluator,
    ) -> Result<(Value, Span), Failed> {
        super::matrix::early(decl.file, value, allowed, self.names, local_axes, eval)
    }

    fn lower(&self, common: &Common<'_>, eval: &mut Evaluator) -> (Vec<StageText>, Vec<ImageText>) {
        let mut out = Vec::new();
        let mut kinds = KindErrors::default();
        let mut stages = Vec::with_capacity(self.found.stages.len());
        for decl in &self.found.stages {
            let Some(mut lowering) = self.lowering(decl.file, eval, &mut out) else {
                continue;
            };
            stages.push(common.stage(decl, &mut lowering, &mut kinds));
        }
        let mut images = Vec::with_capacity(self.found.images.len());
        for decl in &self.found.images {
            let Some(mut lowering) = self.lowering(decl.file, eval, &mut out) else {
                continue;
            };
            images.push(common.image(decl, &mut lowering));
        }
        eval.diagnostics.append(&mut out);
        (stages, images)
    }
}

/// What the `recipe` block says.
#[derive(Default)]
struct BlockHead {
    name: Option<String>,
    source_date_epoch: Option<u64>,
    cutoff: Cutoff,
}
