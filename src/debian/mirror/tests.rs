//! Which mirror is chosen, from files as hosts have them.

use super::*;

fn mirror(text: &str) -> Mirror {
    Mirror::parse(text).unwrap()
}

fn choice(flag: Option<&str>, variables: &[(&str, &str)]) -> MirrorChoice {
    let variable = |name: &str| {
        variables
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    };
    MirrorChoice::read(flag, variable).unwrap()
}

fn shown(mirrors: Mirrors) -> (String, String) {
    let show = |mirror: Option<Mirror>| mirror.map_or("-".to_owned(), |mirror| mirror.to_string());
    (show(mirrors.archive), show(mirrors.security))
}

#[test]
fn addresses_are_read() {
    assert_eq!(
        mirror("HTTP://mirror.example.org/debian/").to_string(),
        "http://mirror.example.org/debian"
    );
    assert_eq!(
        mirror("https://mirror.example.org:8443").to_string(),
        "https://mirror.example.org:8443"
    );
    for text in ["file:/srv/mirror", "file:///srv/mirror"] {
        assert_eq!(mirror(text).directory(), Some(Path::new("/srv/mirror")));
    }
    assert_eq!(
        mirror("copy:/srv/mirror").seen_as("archive"),
        "copy:/run/impasto/apt/archive"
    );
    for text in [
        "",
        "mirror.example.org",
        "file:mirror",
        "file://",
        "http:/x",
        "http:///x",
        "http://@/",
        "/srv",
    ] {
        assert_eq!(Mirror::parse(text), Err(MirrorError::NoAddress), "{text}");
    }
    for text in [
        "https://a b/",
        "https://x/\"",
        "file:/a[b",
        "https://u:%0a@x/",
        "https://u:%ff@x/",
    ] {
        assert_eq!(Mirror::parse(text), Err(MirrorError::Characters), "{text}");
    }
    assert_eq!(
        Mirror::parse("ftp://x/"),
        Err(MirrorError::Scheme {
            scheme: "ftp".to_owned()
        })
    );
}

#[test]
fn passwords_reach_apt_and_nobody_else() {
    let mirror = mirror("https://me:s%40cret@mirror.example.org/debian");
    let mirrors = Mirrors {
        archive: Some(mirror.clone()),
        ..Mirrors::default()
    };
    for text in [
        mirror.to_string(),
        format!("{mirror:?}{mirrors:?}{:?}", mirrors.facts()),
    ] {
        assert!(!text.contains("cret") && !text.contains("me:"), "{text}");
    }
    assert_eq!(mirrors.secrets(), ["s@cret"]);
    let files = mirrors.files();
    assert_eq!(
        files[0],
        (
            "mirrors",
            0o644,
            "archive https://mirror.example.org/debian\n".to_owned()
        )
    );
    let auth = "machine https://mirror.example.org/debian login me password s@cret\n";
    assert_eq!(files[2], ("auth.conf", 0o600, auth.to_owned()));
    for wrong in [
        "ftp://me:s3cret@x/",
        "https://me:s3cret@x y/",
        "me:s3cret@x",
    ] {
        let error = Mirror::parse(wrong).unwrap_err();
        assert!(!format!("{error}{error:?}").contains("s3cret"), "{error:?}");
    }
}

#[test]
fn the_users_choice_goes_before_the_hosts() {
    let entries = parse_list(
        "deb https://host.example.org/debian bookworm main\n\
             deb https://host.example.org/debian-security bookworm-security main\n",
    );
    let resolve = |choice: MirrorChoice| shown(choice.with_sources(&entries, &|_| None));
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let (host, security) = (
        "https://host.example.org/debian",
        "https://host.example.org/debian-security",
    );
    assert_eq!(resolve(choice(None, &[])), pair(host, security));
    let variables = [(ARCHIVE_VARIABLE, "https://near.example.org/d")];
    assert_eq!(
        resolve(choice(None, &variables)),
        pair("https://near.example.org/d", security)
    );
    assert_eq!(
        resolve(choice(Some("file:/frozen"), &variables)),
        pair("file:/frozen", "-")
    );
    assert_eq!(
        resolve(choice(None, &[(SECURITY_VARIABLE, "none")])),
        pair(host, "-")
    );
    let variables = [
        (ARCHIVE_VARIABLE, "file:/frozen"),
        (SECURITY_VARIABLE, "copy:/fixes"),
    ];
    assert_eq!(
        resolve(choice(None, &variables)),
        pair("file:/frozen", "copy:/fixes")
    );
    let wrong = MirrorChoice::read(Some("frozen"), |_| None).unwrap_err();
    assert_eq!(wrong, ("--mirror", MirrorError::NoAddress));
}

#[test]
fn a_list_of_mirrors_gives_its_first() {
    let entries = parse_sources(
        "Types: deb deb-src\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: trixie\nComponents: main\n",
    );
    let read = |path: &Path| {
        let found = path == Path::new("/etc/apt/mirrors/debian.list");
        found.then(|| {
                "# near first\n\nhttps://one.example.org/debian\tpriority:1\nhttps://two.example.org/\n".to_owned()
            })
    };
    let resolved = MirrorChoice::default().with_sources(&entries, &read);
    assert_eq!(
        shown(resolved),
        ("https://one.example.org/debian".to_owned(), "-".to_owned())
    );
}

#[test]
fn proxies_of_apt_go_before_those_of_the_environment() {
    let dump = "Acquire::Languages \"none\";\nAcquire::HTTP \"\";\n\
             Acquire::http::Proxy \"http://me:geheim@proxy.example.org:3128\";\n\
             Acquire::http::Proxy::near.example.org \"DIRECT\";\nAcquire::http::Proxy-Auto-Detect \"/bin/x\";\n";
    let choice = choice(
        None,
        &[
            ("http_proxy", "http://a.example.org"),
            ("https_proxy", "http://b.example.org"),
        ],
    );
    let mirrors = Mirrors {
        proxies: choice.proxies.with_apt(dump),
        ..Mirrors::default()
    };
    let expected = "Acquire::http::Proxy \"http://me:geheim@proxy.example.org:3128\";\n\
             Acquire::http::Proxy::near.example.org \"DIRECT\";\nAcquire::https::Proxy \"http://b.example.org\";\n";
    assert_eq!(mirrors.files()[1].2, expected);
    assert_eq!(mirrors.secrets(), ["geheim"]);
    assert!(
        !format!("{mirrors:?}{choice:?}").contains("geheim"),
        "{mirrors:?}"
    );
}
