//! The distributions whose packages apt installs: what their archives and suites are called, and who signs them.
//! Knows names and keys; where archives can be had is the host's business.

use super::archive::Trust;

/// Public keys of Debian's archives, so that a host needs no package with them.
pub const DEBIAN_KEYS: &[u8] = include_bytes!("archive/debian-archive-keyring.pgp");

/// Those of Ubuntu's.
const UBUNTU_KEYS: &[u8] = include_bytes!("archive/ubuntu-archive-keyring.pgp");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    Debian,
    Ubuntu,
}

/// An archive that belongs to a distribution, so that no recipe has to name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnArchive {
    Debian,
    DebianSecurity,
    /// Of amd64 and i386.
    Ubuntu,
    /// Of all other machines.
    UbuntuPorts,
}

/// A suite of a distribution's own archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnSuite {
    pub archive: OwnArchive,
    pub suite: String,
    /// Whether an archive may lack it, as that of a release which gets no updates yet.
    pub may_be_missing: bool,
}

impl Distribution {
    const ALL: [Distribution; 2] = [Distribution::Debian, Distribution::Ubuntu];

    /// The one that os-release(5) calls so in `ID`.
    pub fn named(id: &str) -> Option<Distribution> {
        Distribution::ALL.into_iter().find(|known| known.id() == id)
    }

    /// As os-release(5) and recipes call it.
    pub fn id(self) -> &'static str {
        match self {
            Distribution::Debian => "debian",
            Distribution::Ubuntu => "ubuntu",
        }
    }

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Distribution::Debian => "Debian",
            Distribution::Ubuntu => "Ubuntu",
        }
    }

    /// A release, for examples.
    pub fn example(self) -> &'static str {
        match self {
            Distribution::Debian => "bookworm",
            Distribution::Ubuntu => "noble",
        }
    }

    /// The archive that has the packages of a machine.
    pub fn archive(self, machine: &str) -> OwnArchive {
        match (self, machine) {
            (Distribution::Debian, _) => OwnArchive::Debian,
            (Distribution::Ubuntu, "amd64" | "i386") => OwnArchive::Ubuntu,
            (Distribution::Ubuntu, _) => OwnArchive::UbuntuPorts,
        }
    }

    /// The suites that a release's packages for a machine come from: the release, its updates, those for security.
    pub fn suites(self, release: &str, machine: &str) -> Vec<OwnSuite> {
        let archive = self.archive(machine);
        let suite = |archive, suffix: &str| OwnSuite {
            archive,
            suite: format!("{release}{suffix}"),
            may_be_missing: !suffix.is_empty(),
        };
        let mut suites = vec![suite(archive, "")];
        if !self.is_rolling(release) {
            suites.push(suite(archive, "-updates"));
            let security = match self {
                Distribution::Debian => OwnArchive::DebianSecurity,
                // A pocket of the same archive.
                Distribution::Ubuntu => archive,
            };
            suites.push(suite(security, "-security"));
        }
        suites
    }

    /// Whether a release gets no updates of its own, and none for security.
    fn is_rolling(self, release: &str) -> bool {
        match self {
            Distribution::Debian => {
                matches!(release, "sid" | "unstable" | "experimental" | "rc-buggy")
            }
            Distribution::Ubuntu => false,
        }
    }

    /// The keys that sign its archives.
    pub fn trust(self) -> Trust {
        let keys = match self {
            Distribution::Debian => DEBIAN_KEYS,
            Distribution::Ubuntu => UBUNTU_KEYS,
        };
        Trust::Keys {
            keys: keys.to_vec(),
            place: format!("{}'s own, built into impasto", self.name()),
        }
    }
}

impl OwnArchive {
    const ALL: [OwnArchive; 4] = [
        OwnArchive::Debian,
        OwnArchive::DebianSecurity,
        OwnArchive::Ubuntu,
        OwnArchive::UbuntuPorts,
    ];

    /// What it is called in a lock, before a `/` and the suite.
    pub fn name(self) -> &'static str {
        match self {
            OwnArchive::Debian => "debian",
            OwnArchive::DebianSecurity => "debian-security",
            OwnArchive::Ubuntu => "ubuntu",
            OwnArchive::UbuntuPorts => "ubuntu-ports",
        }
    }

    /// The archive and the suite that a lock calls so; none where it is a recipe's own.
    pub fn of_lock(name: &str) -> Option<(OwnArchive, &str)> {
        let (place, suite) = name.split_once('/')?;
        let known = OwnArchive::ALL
            .into_iter()
            .find(|known| known.name() == place)?;
        Some((known, suite))
    }

    /// Whose it is.
    pub fn distribution(self) -> Distribution {
        match self {
            OwnArchive::Debian | OwnArchive::DebianSecurity => Distribution::Debian,
            OwnArchive::Ubuntu | OwnArchive::UbuntuPorts => Distribution::Ubuntu,
        }
    }
}

/// Whether what a lock calls so has updates for security only.
pub fn is_security(name: &str) -> bool {
    OwnArchive::of_lock(name).is_some_and(|(archive, suite)| {
        archive == OwnArchive::DebianSecurity || suite.ends_with("-security")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the lock names them.
    fn suites(distribution: Distribution, release: &str, machine: &str) -> Vec<String> {
        let suites = distribution.suites(release, machine).into_iter();
        suites
            .map(|OwnSuite { archive, suite, .. }| format!("{}/{suite}", archive.name()))
            .collect()
    }

    #[test]
    fn a_release_has_its_suites() {
        use Distribution::{Debian, Ubuntu};
        assert_eq!(
            suites(Debian, "bookworm", "arm64"),
            [
                "debian/bookworm",
                "debian/bookworm-updates",
                "debian-security/bookworm-security"
            ]
        );
        assert_eq!(suites(Debian, "sid", "amd64"), ["debian/sid"]);
        assert_eq!(
            suites(Ubuntu, "noble", "amd64"),
            [
                "ubuntu/noble",
                "ubuntu/noble-updates",
                "ubuntu/noble-security"
            ]
        );
        assert_eq!(suites(Ubuntu, "noble", "arm64")[0], "ubuntu-ports/noble");
        for name in ["debian-security/bookworm-security", "ubuntu/noble-security"] {
            assert!(is_security(name), "{name}");
        }
        for name in [
            "debian/bookworm",
            "ubuntu/noble-updates",
            "vendor/x-security",
        ] {
            assert!(!is_security(name), "{name}");
        }
    }

    #[test]
    fn keys_are_those_of_the_archives() {
        let known = |distribution: Distribution| match distribution.trust() {
            Trust::Keys { keys, place } => {
                super::super::archive::Keyring::parse(&keys, &place).map(|_| place)
            }
            Trust::Unsigned => unreachable!(),
        };
        assert_eq!(
            known(Distribution::Debian).unwrap(),
            "Debian's own, built into impasto"
        );
        assert_eq!(
            known(Distribution::Ubuntu).unwrap(),
            "Ubuntu's own, built into impasto"
        );
    }
}
