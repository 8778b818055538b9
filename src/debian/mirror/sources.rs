//! Reads apt's own configuration of package sources, and finds Debian's and Ubuntu's archives in it.
//! Knows texts, not where they come from (sources.list(5)).

/// One archive in one suite, as apt is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceEntry {
    uri: String,
    suite: String,
    components: Vec<String>,
    signed_by: String,
}

/// Debian's releases by name. Ubuntu's are others, so a suite tells whose an archive is.
const CODENAMES: [&str; 12] = [
    "jessie", "stretch", "buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid",
    "stable", "testing", "unstable",
];

/// Ubuntu's releases by name.
const UBUNTU_CODENAMES: [&str; 9] = [
    "xenial", "bionic", "focal", "jammy", "noble", "oracular", "plucky", "questing", "resolute",
];

/// Names that other archives use for their suites too.
const CLASSES: [&str; 4] = ["stable", "testing", "unstable", "oldstable"];

impl SourceEntry {
    /// How sure it is that this is Debian's own archive; none where it is not.
    fn archive_score(&self) -> Option<u32> {
        let known =
            CODENAMES.contains(&self.suite.as_str()) || CLASSES.contains(&self.suite.as_str());
        if !known
            || !self.components.iter().any(|component| component == "main")
            || self.is_of_others()
        {
            return None;
        }
        let uri = self.uri.trim_end_matches('/');
        let mut score = 0;
        score += if self.is_signed_by_debian() { 8 } else { 0 };
        // Right below the host, as mirrors have it; makers of programs have it further down.
        score += if uri.split_once("://").is_some_and(|(_, rest)| {
            rest.split_once('/')
                .is_some_and(|(_, path)| path == "debian")
        }) {
            4
        } else {
            0
        };
        score += if uri.contains("debian") { 1 } else { 0 };
        // "stable main" alone is what many makers of programs call their archives.
        (score > 0 || !CLASSES.contains(&self.suite.as_str())).then_some(score)
    }

    /// The same for the archive of security updates.
    fn security_score(&self) -> Option<u32> {
        let suite = self
            .suite
            .strip_suffix("-security")
            .or_else(|| self.suite.strip_suffix("/updates"))?;
        let known = CODENAMES.contains(&suite) || CLASSES.contains(&suite);
        let own = self.uri.contains("debian-security") || self.uri.contains("security.debian");
        (known && !self.is_of_others()).then_some(u32::from(own))
    }

    /// How sure it is that this is Ubuntu's own archive, which mirrors have in this directory; none where it is not.
    fn ubuntu_score(&self, directory: &str) -> Option<u32> {
        let is_signed = self.signed_by.contains("ubuntu-archive-");
        let is_release = |suite: &str| UBUNTU_CODENAMES.contains(&suite);
        let has_main = self.components.iter().any(|component| component == "main");
        let path = self.uri.trim_end_matches('/').split_once("://")?.1;
        let (_, path) = path.split_once('/')?;
        // What is further down the path belongs to others.
        let is_own = path == directory && (is_signed || self.signed_by.is_empty());
        (is_release(&self.suite) && has_main && is_own).then_some(u32::from(is_signed))
    }

    fn is_signed_by_debian(&self) -> bool {
        self.signed_by.contains("debian-archive-")
    }

    /// Whether a key, or Ubuntu's name, says that it is not Debian's own.
    fn is_of_others(&self) -> bool {
        let other_key = !self.signed_by.is_empty() && !self.is_signed_by_debian();
        other_key || self.uri.contains("ubuntu")
    }
}

/// URIs of distributions' own archives, where the host's entries name them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct HostArchives<'a> {
    pub(super) debian: Option<&'a str>,
    pub(super) security: Option<&'a str>,
    pub(super) ubuntu: Option<&'a str>,
    pub(super) ubuntu_ports: Option<&'a str>,
}

impl<'a> HostArchives<'a> {
    pub(super) fn choose(entries: &'a [SourceEntry]) -> HostArchives<'a> {
        // The first of the best: apt, too, prefers what stands first.
        let best = |score: &dyn Fn(&SourceEntry) -> Option<u32>| {
            let scored = entries
                .iter()
                .filter_map(|entry| Some((score(entry)?, entry)));
            scored
                .rev()
                .max_by_key(|(score, _)| *score)
                .map(|(_, entry)| entry.uri.as_str())
        };
        HostArchives {
            debian: best(&SourceEntry::archive_score),
            security: best(&SourceEntry::security_score),
            ubuntu: best(&|entry| entry.ubuntu_score("ubuntu")),
            ubuntu_ports: best(&|entry| entry.ubuntu_score("ubuntu-ports")),
        }
    }
}

/// Entries of a file in the one-line form.
pub(super) fn parse_list(text: &str) -> Vec<SourceEntry> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<SourceEntry> {
    let line = line.split('#').next()?.trim();
    let rest = line
        .strip_prefix("deb")
        .filter(|rest| rest.starts_with([' ', '\t', '[']))?
        .trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="));
    let mut fields = rest.split_whitespace();
    Some(SourceEntry {
        uri: fields.next()?.to_owned(),
        suite: fields.next()?.to_owned(),
        components: fields.map(str::to_owned).collect(),
        signed_by: signed_by.unwrap_or_default().to_owned(),
    })
}

/// Entries of a file in the deb822 form.
pub(super) fn parse_sources(text: &str) -> Vec<SourceEntry> {
    let mut entries = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            paragraph(&std::mem::take(&mut fields), &mut entries);
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries
}

fn paragraph(fields: &[(String, String)], entries: &mut Vec<SourceEntry>) {
    let field = |name: &str| {
        fields
            .iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value.as_str())
    };
    let words = |name: &str| {
        field(name)
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let off = ["no", "false", "0", "off", "without", "disable"];
    if off.contains(&field("enabled").to_ascii_lowercase().as_str())
        || !words("types").iter().any(|ty| ty == "deb")
    {
        return;
    }
    for uri in words("uris") {
        for suite in words("suites") {
            let (components, signed_by) = (words("components"), field("signed-by").to_owned());
            entries.push(SourceEntry {
                uri: uri.clone(),
                suite,
                components,
                signed_by,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(entries: &[SourceEntry]) -> (&str, &str) {
        let chosen = HostArchives::choose(entries);
        (chosen.debian.unwrap_or("-"), chosen.security.unwrap_or("-"))
    }

    #[test]
    fn one_line_sources_are_read() {
        let entries = parse_list(
            "# deb https://old.example.org/debian bookworm main\n\
             deb cdrom:[Debian GNU/Linux 12]/ bookworm main\n\
             deb-src https://src.example.org/debian bookworm main\n\
             deb [signed-by=/k.gpg] https://tool.example.org/debian bookworm main\n\
             deb https://tool.example.org/tool/6.0/debian bookworm main\n\
             \tdeb  [ arch=amd64 trusted=no ]  https://mirror.example.org/debian/ bookworm main contrib # near\n\
             deb https://mirror.example.org/debian bookworm-updates main\n\
             deb https://mirror.example.org/debian-security bookworm-security main\n",
        );
        let expected = (
            "https://mirror.example.org/debian/",
            "https://mirror.example.org/debian-security",
        );
        assert_eq!(chosen(&entries), expected);
    }

    #[test]
    fn deb822_sources_are_read() {
        let entries = parse_sources(
            "Types: deb\nEnabled: no\nURIs: https://off.example.org/debian\nSuites: bookworm\nComponents: main\n\n\
             Types: deb-src\nURIs: https://src.example.org/debian\nSuites: bookworm\nComponents: main\n \n\
             # the real one\nTypes: deb\n deb-src\nURIs:\n https://mirror.example.org/debian\n# not this\n\
             \thttps://second.example.org/debian\nsuites: trixie trixie-updates\nComponents: main non-free-firmware\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp\n\n\n\
             Types: deb\nURIs: https://tool.example.org/debian\nSuites: trixie\nComponents: main\n\
             Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n -----END PGP PUBLIC KEY BLOCK-----\n\n\
             Types: deb\nURIs: https://security.example.org/\nSuites: trixie-security\nComponents: main\n",
        );
        assert_eq!(
            chosen(&entries),
            (
                "https://mirror.example.org/debian",
                "https://security.example.org/"
            )
        );
    }

    #[test]
    fn ubuntus_archives_are_found() {
        let of = |text: &str| {
            let entries = parse_list(text);
            let chosen = HostArchives::choose(&entries);
            let owned = |uri: Option<&str>| uri.unwrap_or("-").to_owned();
            (owned(chosen.ubuntu), owned(chosen.ubuntu_ports))
        };
        let host = "deb http://ppa.example.org/somebody/tools/ubuntu noble main\n\
             deb [signed-by=/k/vendor.gpg] http://vendor.example.org/ubuntu noble main\n\
             deb http://first.example.org/ubuntu/ noble main restricted\n\
             deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] http://near.example.org/ubuntu noble main\n\
             deb http://ports.example.org/ubuntu-ports noble main universe\n";
        let expected = (
            "http://near.example.org/ubuntu".to_owned(),
            "http://ports.example.org/ubuntu-ports".to_owned(),
        );
        assert_eq!(of(host), expected);
        let debian = "deb http://mirror.example.org/debian bookworm main\n";
        assert_eq!(of(debian), ("-".to_owned(), "-".to_owned()));
    }

    #[test]
    fn what_is_not_debians_own_is_left_out() {
        let ubuntu = "deb http://archive.ubuntu.example.org/ubuntu noble main\n\
             deb http://security.ubuntu.example.org/ubuntu noble-security main\n\
             deb https://tool.example.org/linux/deb stable main\n\
             deb https://packages.example.org/debian-like stable nightly\n\
             deb https://keys.example.org/debian noble main\n";
        assert_eq!(chosen(&parse_list(ubuntu)), ("-", "-"));
        let mirror = parse_list("deb https://mirror.example.org/d bookworm main\n");
        assert_eq!(chosen(&mirror), ("https://mirror.example.org/d", "-"));
        for broken in [
            "deb",
            "deb [",
            "deb [a] x",
            "debian x y z",
            "deb x",
            "",
            "[deb] x y",
        ] {
            assert_eq!(parse_list(broken), [], "{broken}");
        }
    }
}
