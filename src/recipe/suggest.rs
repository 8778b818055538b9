//! "Did you mean": the known name that is nearest to an unknown one.
//! Knows words only.

/// The nearest of `names`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = match word.chars().count() {
        0..=2 => 1,
        3..=5 => 2,
        _ => 3,
    };
    let mut best: Option<(usize, &str)> = None;
    for name in names {
        if name == word || word.len().abs_diff(name.len()) > 2 * limit {
            continue;
        }
        let far = distance(word, name);
        let half = name.chars().count().max(word.chars().count()) / 2;
        if far <= limit.min(half.max(1)) && best.is_none_or(|(least, _)| far < least) {
            best = Some((far, name));
        }
    }
    best.map(|(_, name)| name)
}

/// A line of help with the nearest of `names`, else with all of them where they are few.
pub fn did_you_mean<'a>(
    what: &str,
    word: &str,
    names: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<String> {
    if let Some(name) = nearest(word, names.clone()) {
        return Some(format!("did you mean `{name}`?"));
    }
    let all: Vec<&str> = names.into_iter().collect();
    match all.len() {
        0 => None,
        1..=20 => Some(format!("{what}: {}", all.join(", "))),
        _ => None,
    }
}

/// Edits between two words: insertions, deletions, replacements, swaps of neighbours; case counts half as none.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().take(64).flat_map(char::to_lowercase).collect();
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_meant() {
        let names = ["bootstrap", "base", "tools", "var", "local"];
        assert_eq!(nearest("bootstrp", names), Some("bootstrap"));
        assert_eq!(nearest("bsae", names), Some("base"));
        assert_eq!(nearest("Tools", names), Some("tools"));
        assert_eq!(nearest("vra", names), Some("var"));
        assert_eq!(nearest("kitchen", names), None);
        assert_eq!(nearest("x", ["y"]), Some("y"));
    }

    #[test]
    fn few_names_are_listed() {
        assert_eq!(
            did_you_mean("stages", "zzzzzz", ["a1", "b1"]).as_deref(),
            Some("stages: a1, b1")
        );
        assert_eq!(did_you_mean("stages", "zzzzzz", []), None);
    }
}
