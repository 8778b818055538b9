//! Evaluates a recipe's stages and images for each combination of its matrix; what combinations share, once.
//! Knows which axes a text reads; what a stage means is its kind's.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Loader, Local};
use crate::recipe::diagnostic::{Diagnostic, Span};
use crate::recipe::eval::{Evaluator, LocalValue};
use crate::recipe::graph::Fit;
use crate::recipe::image::{BuiltImage, ImageText};
use crate::recipe::matrix::{Chosen, Matrix};
use crate::recipe::model::Combination;
use crate::recipe::stage::{Common, StageState, StageText};

/// What each stage and image costs in each combination, even where it is known already.
const COMBINED_STEPS: u64 = 2;
const COMBINED_BYTES: u64 = 96;
/// Most reports beside the one that the budget is used up.
pub(super) const MAX_BESIDE: usize = 20;

/// Evaluates the recipe for each combination; what combinations share is evaluated once.
pub(super) struct StageExpansion<'x, 'r, 't> {
    pub(super) loader: &'x Loader<'r, 't>,
    pub(super) matrix: &'x Matrix,
    pub(super) locals: &'x [Local],
    pub(super) common: &'x Common<'x>,
    pub(super) stages: Vec<StageText>,
    pub(super) images: Vec<ImageText>,
}

impl StageExpansion<'_, '_, '_> {
    pub(super) fn run(&self, chosen: &[Chosen], eval: &mut Evaluator) -> Vec<Combination> {
        let mut local_cache: Vec<HashMap<u64, LocalValue>> =
            vec![HashMap::new(); self.locals.len()];
        let mut stage_cache: Vec<HashMap<u64, StageState>> =
            vec![HashMap::new(); self.stages.len()];
        let mut image_cache: Vec<HashMap<u64, Option<Arc<BuiltImage>>>> =
            vec![HashMap::new(); self.images.len()];
        let mut names = ImageNames::default();
        let mut combinations = Vec::with_capacity(chosen.len());
        for combination in chosen {
            let (stages, images) = (self.stages.len() as u64, self.images.len() as u64);
            let head = self
                .stages
                .first()
                .map_or_else(Span::default, |stage| stage.head);
            let count = 1 + stages + images;
            if eval
                .budget
                .charge(head, count * COMBINED_STEPS, count * COMBINED_BYTES)
                .is_err()
            {
                break;
            }
            eval.axes = self.matrix.values(combination);
            for (index, local) in self
                .locals
                .iter()
                .enumerate()
                .filter(|(_, local)| local.axes != 0)
            {
                let value = self.once(
                    combination,
                    local.axes,
                    &mut local_cache[index],
                    eval,
                    |eval| {
                        self.loader.local(local, eval);
                        eval.locals[local.id].clone()
                    },
                );
                eval.locals[local.id] = value;
            }
            let states = self
                .stages
                .iter()
                .zip(&mut stage_cache)
                .map(|(text, cache)| {
                    self.once(combination, text.axes, cache, eval, |eval| {
                        self.common.build(text, eval)
                    })
                });
            let states: Vec<StageState> = states.collect();
            let images = self
                .images
                .iter()
                .zip(&mut image_cache)
                .filter_map(|(text, cache)| {
                    self.once(combination, text.axes, cache, eval, |eval| {
                        self.common.build_image(text, eval)
                    })
                });
            let images: Vec<Arc<BuiltImage>> = images.collect();
            let numbers = &self.loader.names.stages;
            let before = eval.diagnostics.len();
            Fit {
                texts: &self.stages,
                numbers,
                states: &states,
                diagnostics: &mut eval.diagnostics,
            }
            .run(&images);
            names.check(&images, &states, numbers, &mut eval.diagnostics);
            self.matrix
                .note(combination, u64::MAX, &mut eval.diagnostics[before..]);
            combinations.push(Combination {
                values: self.matrix.texts(combination),
                stages: states
                    .iter()
                    .filter_map(|state| match state {
                        StageState::Ready(built) => Some(built.stage.clone()),
                        _ => None,
                    })
                    .collect(),
                images: images
                    .iter()
                    .filter_map(|built| built.image.clone())
                    .collect(),
            });
        }
        combinations
    }

    /// What is made of a text that reads these axes: once for all combinations that have the same values on them.
    fn once<T: Clone>(
        &self,
        combination: &Chosen,
        axes: u64,
        cache: &mut HashMap<u64, T>,
        eval: &mut Evaluator,
        build: impl FnOnce(&mut Evaluator) -> T,
    ) -> T {
        let make = || {
            let before = eval.diagnostics.len();
            let made = build(eval);
            self.matrix
                .note(combination, axes, &mut eval.diagnostics[before..]);
            made
        };
        cache
            .entry(self.matrix.projection(combination, axes))
            .or_insert_with(make)
            .clone()
    }
}

/// The images' names over all combinations: what is called the same must be the same.
#[derive(Default)]
struct ImageNames {
    seen: HashMap<String, (Span, Vec<usize>)>,
}

impl ImageNames {
    fn check(
        &mut self,
        images: &[Arc<BuiltImage>],
        states: &[StageState],
        numbers: &HashMap<Arc<str>, u32>,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        for built in images {
            let Some(image) = &built.image else { continue };
            let identity = identity(built, states, numbers);
            match self.seen.get(&image.name) {
                None => drop(
                    self.seen
                        .insert(image.name.clone(), (built.name_span, identity)),
                ),
                Some((_, known)) if *known == identity => {}
                Some((first, _)) => {
                    let message = format!("two different images are called {:?}", image.name);
                    let diagnostic = Diagnostic::at(built.name_span, message);
                    let diagnostic = if *first == built.name_span {
                        diagnostic
                            .note(
                                "it has different content in different combinations of the matrix, and their files \
                                   would overwrite each other",
                            )
                            .help("put an axis into the name: `name = \"…-${matrix.AXIS}\"`")
                    } else {
                        diagnostic
                            .also(*first, "the other one is named here")
                            .help("rename one of them")
                    };
                    diagnostics.push(diagnostic);
                }
            }
        }
    }
}

/// What an image is made of: the evaluated stages below it, each by its address.
fn identity(
    built: &BuiltImage,
    states: &[StageState],
    numbers: &HashMap<Arc<str>, u32>,
) -> Vec<usize> {
    let mut seen: Vec<bool> = vec![false; states.len()];
    let mut open: Vec<&Arc<str>> = built
        .references
        .iter()
        .map(|reference| &reference.stage)
        .collect();
    let mut found: Vec<usize> = vec![std::ptr::from_ref(built) as usize];
    while let Some(stage) = open.pop() {
        let Some(number) = numbers.get(stage).map(|number| *number as usize) else {
            continue;
        };
        if std::mem::replace(&mut seen[number], true) {
            continue;
        }
        if let StageState::Ready(built) = &states[number] {
            found.push(Arc::as_ptr(built) as usize);
            open.extend(built.references.iter().map(|reference| &reference.stage));
        }
    }
    found.sort_unstable();
    found
}
