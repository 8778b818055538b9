//! Functions of lists and objects.

use std::collections::{BTreeMap, HashSet};

use impasto_stages::{Data, Number, Value};

use super::{
    Fail, Function, at_least, between, bool_arg, exactly, function, int_arg, list_arg, number_arg,
    object_arg, size_arg, text_arg, texts_arg, wrong,
};
use crate::recipe::convert::{identity, int, list, number, object, same, show, to_bool, truth};

/// Most elements that a function makes out of little.
const MAX_MADE: usize = 100_000;

pub(super) static FUNCTIONS: &[Function] = &[
    function(
        "alltrue",
        "alltrue(list)",
        exactly(1),
        "Whether all elements are true.",
        |args| all_bools(&args).map(|bools| truth(bools.into_iter().all(|bool| bool))),
    ),
    function(
        "anytrue",
        "anytrue(list)",
        exactly(1),
        "Whether at least one element is true.",
        |args| all_bools(&args).map(|bools| truth(bools.into_iter().any(|bool| bool))),
    ),
    function(
        "chunklist",
        "chunklist(list, size)",
        exactly(2),
        "A list split into lists of a given size.",
        |args| {
            let items = list_arg(&args, 0)?;
            match size_arg(&args, 1)? {
                0 => Ok(list(vec![list(items.to_vec())])),
                size => Ok(list(
                    items
                        .chunks(size)
                        .map(|chunk| list(chunk.to_vec()))
                        .collect(),
                )),
            }
        },
    )
    .structural()
    .costs(super::cost_of_elements),
    function(
        "coalesce",
        "coalesce(values...)",
        at_least(1),
        "The first value that is neither null nor an empty string.",
        |args| {
            let found = args
                .into_iter()
                .find(|value| value.data != Data::Null && value.as_str() != Some(""));
            found.ok_or_else(|| Fail::new("all values are null or empty"))
        },
    )
    .structural(),
    function(
        "coalescelist",
        "coalescelist(lists...)",
        at_least(1),
        "The first list that is not empty.",
        |args| {
            for index in 0..args.len() {
                if !list_arg(&args, index)?.is_empty() {
                    return Ok(args[index].clone());
                }
            }
            Err(Fail::new("all lists are empty"))
        },
    )
    .structural(),
    function(
        "compact",
        "compact(list)",
        exactly(1),
        "A list without nulls and empty strings.",
        |args| {
            let kept = list_arg(&args, 0)?
                .iter()
                .filter(|item| item.data != Data::Null && item.as_str() != Some(""));
            Ok(list(kept.cloned().collect()))
        },
    )
    .structural(),
    function(
        "concat",
        "concat(lists...)",
        at_least(1),
        "The elements of all lists, in order.",
        |args| {
            let mut all = Vec::new();
            for index in 0..args.len() {
                all.extend_from_slice(list_arg(&args, index)?);
            }
            Ok(list(all))
        },
    )
    .structural()
    .costs(super::cost_of_elements),
    function(
        "contains",
        "contains(list, value)",
        exactly(2),
        "Whether a list contains a value.",
        |args| {
            Ok(truth(
                list_arg(&args, 0)?.iter().any(|item| same(item, &args[1])),
            ))
        },
    ),
    function(
        "distinct",
        "distinct(list)",
        exactly(1),
        "A list without duplicates, in order of first occurrence.",
        |args| {
            let mut seen = HashSet::new();
            let kept = list_arg(&args, 0)?
                .iter()
                .filter(|item| seen.insert(identity(item)));
            Ok(list(kept.cloned().collect()))
        },
    )
    .costs(super::cost_of_all),
    function(
        "element",
        "element(list, index)",
        exactly(2),
        "The element at an index, which wraps around at the end.",
        |args| {
            let items = list_arg(&args, 0)?;
            if items.is_empty() {
                return Err(Fail::arg(0, "the list is empty"));
            }
            let index = int_arg(&args, 1)?.rem_euclid(items.len() as i64);
            Ok(items[index as usize].clone())
        },
    )
    .structural(),
    function(
        "flatten",
        "flatten(list)",
        exactly(1),
        "A list in which nested lists are replaced by their elements.",
        |args| {
            let mut out = Vec::new();
            flatten(list_arg(&args, 0)?, &mut out);
            Ok(list(out))
        },
    )
    .structural()
    .costs(super::cost_of_all),
    function(
        "index",
        "index(list, value)",
        exactly(2),
        "The index of a value in a list.",
        |args| {
            let found = list_arg(&args, 0)?
                .iter()
                .position(|item| same(item, &args[1]));
            found.map(int).ok_or_else(|| {
                Fail::arg(1, format!("the list does not contain {}", show(&args[1])))
            })
        },
    ),
    function(
        "keys",
        "keys(object)",
        exactly(1),
        "An object's keys, sorted.",
        |args| {
            Ok(list(
                object_arg(&args, 0)?
                    .keys()
                    .map(|key| Value::string(key.as_str()))
                    .collect(),
            ))
        },
    )
    .structural()
    .costs(super::cost_of_elements),
    function(
        "length",
        "length(value)",
        exactly(1),
        "The number of elements, keys or characters.",
        |args| match &args[0].data {
            Data::List(items) => Ok(int(items.len())),
            Data::Object(items) => Ok(int(items.len())),
            Data::String(text) => Ok(int(text.chars().count())),
            _ => Err(wrong(&args, 0, "a list, an object or a string")),
        },
    )
    .structural(),
    function(
        "lookup",
        "lookup(object, key, default)",
        between(2, 3),
        "The value of a key, or the default if there is none.",
        |args| {
            let key = text_arg(&args, 1)?;
            match (object_arg(&args, 0)?.get(&*key), args.get(2)) {
                (Some(value), _) | (None, Some(value)) => Ok(value.clone()),
                (None, None) => {
                    let help = "add a third argument as the default for missing keys";
                    Err(
                        Fail::arg(1, format!("the object has no key {}", show(&args[1])))
                            .help(help),
                    )
                }
            }
        },
    )
    .structural(),
    function(
        "merge",
        "merge(objects...)",
        at_least(1),
        "The objects merged into one; where several have a key, the last one wins.",
        |args| {
            let mut all = BTreeMap::new();
            for (index, value) in args.iter().enumerate() {
                if value.data != Data::Null {
                    all.extend(
                        object_arg(&args, index)?
                            .iter()
                            .map(|(key, value)| (key.clone(), value.clone())),
                    );
                }
            }
            Ok(object(all))
        },
    )
    .structural()
    .costs(super::cost_of_elements),
    function(
        "range",
        "range(start, limit, step)",
        between(1, 3),
        "Numbers from start (default 0) up to, but not including, limit, by step (default 1).",
        range,
    ),
    function(
        "reverse",
        "reverse(list)",
        exactly(1),
        "A list in reverse order.",
        |args| Ok(list(list_arg(&args, 0)?.iter().rev().cloned().collect())),
    )
    .structural(),
    function(
        "setproduct",
        "setproduct(lists...)",
        at_least(2),
        "All combinations of one element from each list.",
        setproduct,
    )
    .structural(),
    function(
        "slice",
        "slice(list, start, end)",
        exactly(3),
        "The elements from start up to, but not including, end.",
        |args| {
            let items = list_arg(&args, 0)?;
            let (start, end) = (size_arg(&args, 1)?, size_arg(&args, 2)?);
            if start > end || end > items.len() {
                return Err(Fail::new(format!(
                    "{start} to {end} is out of range for a list of {}",
                    items.len()
                )));
            }
            Ok(list(items[start..end].to_vec()))
        },
    )
    .structural(),
    function(
        "sort",
        "sort(list)",
        exactly(1),
        "A list of strings, sorted.",
        |args| {
            let mut texts = texts_arg(&args, 0)?;
            texts.sort_unstable();
            Ok(list(texts.into_iter().map(Value::string).collect()))
        },
    ),
    function(
        "values",
        "values(object)",
        exactly(1),
        "An object's values, ordered by key.",
        |args| Ok(list(object_arg(&args, 0)?.values().cloned().collect())),
    )
    .structural(),
    function(
        "zipmap",
        "zipmap(keys, values)",
        exactly(2),
        "An object made from a list of keys and a list of values.",
        |args| {
            let (keys, values) = (texts_arg(&args, 0)?, list_arg(&args, 1)?);
            if keys.len() != values.len() {
                return Err(Fail::new(format!(
                    "there are {} keys and {} values",
                    keys.len(),
                    values.len()
                )));
            }
            Ok(object(
                keys.iter()
                    .map(|key| key.to_string())
                    .zip(values.iter().cloned())
                    .collect(),
            ))
        },
    )
    .structural(),
];

fn all_bools(args: &[Value]) -> Result<Vec<bool>, Fail> {
    if args.len() == 1 && !matches!(args[0].data, Data::List(_)) {
        return bool_arg(args, 0).map(|bool| vec![bool]);
    }
    let items = list_arg(args, 0)?.iter();
    items
        .map(|item| {
            to_bool(item).ok_or_else(|| Fail::arg(0, format!("{} is not a boolean", show(item))))
        })
        .collect()
}

fn flatten(items: &[Value], out: &mut Vec<Value>) {
    for item in items {
        match &item.data {
            Data::List(inner) => {
                let from = out.len();
                flatten(inner, out);
                // The inner list is gone: its marks go to its elements.
                out[from..]
                    .iter_mut()
                    .for_each(|value| value.marks.unite(&item.marks));
            }
            _ => out.push(item.clone()),
        }
    }
}

fn range(args: Vec<Value>) -> Result<Value, Fail> {
    let (start, limit) = match args.len() {
        1 => (Number::Int(0), number_arg(&args, 0)?),
        _ => (number_arg(&args, 0)?, number_arg(&args, 1)?),
    };
    let down = limit < start;
    let step = match args.len() {
        3 => number_arg(&args, 2)?,
        _ => Number::Int(if down { -1 } else { 1 }),
    };
    let zero = Number::Int(0);
    if step == zero || (start != limit && (step < zero) != down) {
        return Err(Fail::arg(
            args.len() - 1,
            "the step never reaches limit from start",
        ));
    }
    let (mut items, mut next) = (Vec::new(), start);
    while if down { next > limit } else { next < limit } {
        if items.len() == MAX_MADE {
            return Err(Fail::new(format!(
                "the list would have more than {MAX_MADE} elements"
            )));
        }
        items.push(number(next));
        next = next
            .plus(step)
            .map_err(|error| Fail::new(format!("an element {error}")))?;
    }
    Ok(list(items))
}

fn setproduct(args: Vec<Value>) -> Result<Value, Fail> {
    let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
    for index in 0..args.len() {
        let items = list_arg(&args, index)?;
        // So many of so many elements.
        if rows
            .len()
            .saturating_mul(items.len())
            .saturating_mul(index + 1)
            > 2 * MAX_MADE
        {
            return Err(Fail::new(format!(
                "the list would have more than {MAX_MADE} elements"
            )));
        }
        rows = rows
            .iter()
            .flat_map(|row| {
                items
                    .iter()
                    .map(move |item| row.iter().chain([item]).cloned().collect::<Vec<_>>())
            })
            .collect();
    }
    Ok(list(rows.into_iter().map(list).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_an_inner_list_survive_flatten() {
        let mut inner = list(vec![Value::string("a")]);
        inner.marks.sensitive = Some(std::sync::Arc::new(impasto_stages::Sensitive {
            way: vec!["x".into()],
        }));
        let mut out = Vec::new();
        flatten(&[inner], &mut out);
        assert!(out[0].marks.sensitive.is_some());
        assert_eq!(out[0].as_str(), Some("a"));
    }
}
