//! Which wheels an interpreter can use, and which of several is the best.
//! Knows the tags of PEP 425, PEP 600 and PEP 656 and names of files (PEP 427, PEP 625); knows no index.

use impasto_stages::vendor::PythonTarget;

/// The oldest glibc that any wheel names, by machine: 2.5 where machines of 2007 are of this kind, else 2.17 (PEP 600).
const FIRST_GLIBC: u32 = 5;
const FIRST_GLIBC_ELSEWHERE: u32 = 17;

/// Names of platforms that are older than PEP 600: minor version of glibc, and the name.
const LEGACY: [(u32, &str); 3] = [
    (17, "manylinux2014"),
    (12, "manylinux2010"),
    (5, "manylinux1"),
];

/// The kernel's name of a machine, which tags have.
pub(super) fn machine(target: &PythonTarget) -> &'static str {
    if target.machine == "arm64" {
        "aarch64"
    } else {
        "x86_64"
    }
}

/// The tags that an interpreter can use, the best first: as the `packaging` library orders them, which pip uses.
pub(super) fn tags(target: &PythonTarget) -> Vec<String> {
    let platforms = platforms(target);
    let minor = target.minor;
    let own = format!("cp3{minor}");
    let mut tags = Vec::new();
    let mut push = |interpreter: &str, abi: &str, platforms: &[String]| {
        tags.extend(
            platforms
                .iter()
                .map(|platform| format!("{interpreter}-{abi}-{platform}")),
        );
    };
    push(&own, &own, &platforms);
    push(&own, "abi3", &platforms);
    push(&own, "none", &platforms);
    // The stable ABI began with 3.2.
    for older in (2..minor).rev() {
        push(&format!("cp3{older}"), "abi3", &platforms);
    }
    let any = ["any".to_owned()];
    let pure: Vec<_> = [format!("py3{minor}"), "py3".to_owned()]
        .into_iter()
        .chain((0..minor).rev().map(|older| format!("py3{older}")))
        .collect();
    pure.iter()
        .for_each(|python| push(python, "none", &platforms));
    push(&own, "none", &any);
    pure.iter().for_each(|python| push(python, "none", &any));
    tags
}

fn platforms(target: &PythonTarget) -> Vec<String> {
    let machine = machine(target);
    let first = if machine == "x86_64" {
        FIRST_GLIBC
    } else {
        FIRST_GLIBC_ELSEWHERE
    };
    let mut platforms = Vec::new();
    for minor in (first..=target.glibc).rev() {
        platforms.push(format!("manylinux_2_{minor}_{machine}"));
        let legacy = LEGACY.iter().find(|(of, _)| *of == minor);
        platforms.extend(legacy.map(|(_, name)| format!("{name}_{machine}")));
    }
    platforms.push(format!("linux_{machine}"));
    platforms
}

/// What a file of an index is, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PythonFile {
    Wheel {
        /// The number and the letters of its build (PEP 427): the higher is the newer.
        build: (u64, String),
        /// Every tag that it has.
        tags: Vec<String>,
    },
    /// The source, which has to be built.
    Source,
}

impl PythonFile {
    /// None where the name is that of neither.
    pub(super) fn of(name: &str) -> Option<PythonFile> {
        if name.ends_with(".tar.gz") || name.ends_with(".zip") {
            return Some(PythonFile::Source);
        }
        let parts: Vec<_> = name.strip_suffix(".whl")?.split('-').collect();
        let (build, [interpreters, abis, platforms]) = match parts.as_slice() {
            [_, _, tags @ ..] if tags.len() == 3 => ("", [tags[0], tags[1], tags[2]]),
            [_, _, build, tags @ ..] if tags.len() == 3 => (*build, [tags[0], tags[1], tags[2]]),
            _ => return None,
        };
        let mut tags = Vec::new();
        for interpreter in interpreters.split('.') {
            for abi in abis.split('.') {
                for platform in platforms.split('.') {
                    tags.push(format!("{interpreter}-{abi}-{platform}"));
                }
            }
        }
        let digits = build.bytes().take_while(u8::is_ascii_digit).count();
        let (number, letters) = build.split_at(digits);
        let build = (number.parse().unwrap_or(0), letters.to_owned());
        Some(PythonFile::Wheel { build, tags })
    }

    /// How well it fits, the smaller the better; none where it does not. `tags` are those of the interpreter.
    pub(super) fn rank(
        &self,
        tags: &[String],
    ) -> Option<(usize, std::cmp::Reverse<(u64, String)>)> {
        match self {
            PythonFile::Source => Some((usize::MAX, std::cmp::Reverse((0, String::new())))),
            PythonFile::Wheel { build, tags: own } => {
                let best = tags.iter().position(|tag| own.contains(tag))?;
                Some((best, std::cmp::Reverse(build.clone())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(minor: u32, machine: &str) -> PythonTarget {
        PythonTarget {
            minor,
            machine: machine.to_owned(),
            glibc: 36,
        }
    }

    /// The best of these files.
    fn best<'n>(target: &PythonTarget, names: &[&'n str]) -> Option<&'n str> {
        let tags = tags(target);
        let ranked = names
            .iter()
            .filter_map(|name| Some((PythonFile::of(name)?.rank(&tags)?, *name)));
        ranked.min().map(|(_, name)| name)
    }

    #[test]
    fn the_order_of_tags_is_that_of_pip() {
        let tags = tags(&target(11, "amd64"));
        let at = |tag: &str| tags.iter().position(|known| known == tag).expect(tag);
        let order = [
            "cp311-cp311-manylinux_2_36_x86_64",
            "cp311-cp311-manylinux_2_17_x86_64",
            "cp311-cp311-manylinux2014_x86_64",
            "cp311-cp311-manylinux1_x86_64",
            "cp311-cp311-linux_x86_64",
            "cp311-abi3-manylinux_2_36_x86_64",
            "cp311-none-linux_x86_64",
            "cp310-abi3-manylinux_2_17_x86_64",
            "cp32-abi3-linux_x86_64",
            "py311-none-manylinux_2_36_x86_64",
            "py3-none-linux_x86_64",
            "cp311-none-any",
            "py311-none-any",
            "py3-none-any",
            "py310-none-any",
            "py30-none-any",
        ];
        let places: Vec<_> = order.iter().map(|tag| at(tag)).collect();
        assert!(places.is_sorted(), "{places:?}");
        assert_eq!(tags.last().map(String::as_str), Some("py30-none-any"));
    }

    #[test]
    fn the_best_wheel_is_chosen_and_the_source_where_none_fits() {
        let names = [
            "x-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "x-1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
            "x-1.0-cp311-cp311-manylinux_2_38_x86_64.whl",
            "x-1.0-cp311-cp311-manylinux_2_17_aarch64.whl",
            "x-1.0-cp311-cp311-musllinux_1_1_x86_64.whl",
            "x-1.0-cp39-abi3-manylinux_2_17_x86_64.whl",
            "x-1.0-py3-none-any.whl",
            "x-1.0.tar.gz",
        ];
        assert_eq!(best(&target(11, "amd64"), &names), Some(names[1]));
        assert_eq!(best(&target(11, "arm64"), &names), Some(names[3]));
        assert_eq!(best(&target(12, "amd64"), &names), Some(names[5]));
        assert_eq!(best(&target(12, "arm64"), &names), Some(names[6]));
        assert_eq!(best(&target(12, "arm64"), &names[7..]), Some(names[7]));
        assert_eq!(best(&target(12, "arm64"), &names[..3]), None);
        let builds = [
            "x-1.0-1-py3-none-any.whl",
            "x-1.0-10-py3-none-any.whl",
            "x-1.0-py2.py3-none-any.whl",
        ];
        assert_eq!(best(&target(11, "amd64"), &builds), Some(builds[1]));
    }
}
