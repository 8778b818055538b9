use std::collections::BTreeMap;

use super::*;
use crate::number::Number;
use crate::value::Data;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGpJ9vZ0C0m0n8v1xUqvXQ3m4Qb0mQy8m7m0m1m2m3m4 admin@example.org";

fn object(pairs: &[(&str, Value)]) -> Value {
    Value::object(
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    )
}

fn text(text: &str) -> Value {
    Value::string(text)
}

fn list(items: &[Value]) -> Value {
    Value::list(items.to_vec())
}

fn uid(number: i64) -> Value {
    object(&[("uid", Value::new(Data::Number(Number::Int(number))))])
}

fn lowered(more: &[(&str, Value)]) -> Result<Lowered, Vec<ParamError>> {
    let mut params = BTreeMap::from([
        ("tree".to_owned(), text("root.tar")),
        ("size".to_owned(), text("2GiB")),
    ]);
    params.extend(
        more.iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone())),
    );
    lower(
        &Params(params),
        &StageContext {
            source_date_epoch: Some(1),
            ..StageContext::default()
        },
    )
}

fn spec_of(more: &[(&str, Value)]) -> DiskSpec {
    let lowered = lowered(more).expect("it lowers");
    match lowered.actions.as_slice() {
        [action] => match action.steps.as_slice() {
            [Step::AssembleDisk { spec, .. }] => (**spec).clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn refusal(more: &[(&str, Value)]) -> String {
    let errors = lowered(more).map(|_| ()).expect_err("it is refused");
    let shown =
        |error: &ParamError| format!("{error}\n{}", error.help.as_deref().unwrap_or_default());
    errors.iter().map(shown).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_left_out_has_its_default() {
    let spec = spec_of(&[]);
    assert_eq!((spec.size, spec.efi_size), (2 << 30, 64 << 20));
    assert!(spec.bios && spec.efi && spec.console && spec.growpart);
    assert_eq!(
        (spec.host_name.as_str(), spec.label.as_str()),
        ("debian", "root")
    );
    assert_eq!(spec.networking, Networking::Dhcp);
    assert!(!spec_of(&[("bootloader", list(&[]))]).is_bootable());
    assert_ne!(spec.seed, spec_of(&[("hostname", text("other"))]).seed);
}

#[test]
fn a_disk_without_table_is_one_file_system() {
    let bare = ("table", text("none"));
    let spec = spec_of(&[bare.clone(), ("size", text("150MiB"))]);
    assert_eq!((spec.table, spec.is_bootable()), (DiskTable::None, false));
    assert_eq!(spec.layout().map(|layout| layout.len()), Ok(1));
    for (name, value) in [
        ("bootloader", list(&[text("efi")])),
        (
            "partitions",
            list(&[object(&[("name", text("data")), ("size", text("8MiB"))])]),
        ),
        ("kernel_arguments", list(&[text("quiet")])),
    ] {
        let refused = refusal(&[bare.clone(), (name, value)]);
        assert!(
            refused.starts_with("a disk without partition table"),
            "{refused}"
        );
    }
}

#[test]
fn a_key_that_is_none_is_named_with_its_place() {
    let user = object(&[("ssh_keys", list(&[text(KEY), text("id_ed25519.pub")]))]);
    let refused = refusal(&[("users", object(&[("admin", user)]))]);
    assert!(
        refused.starts_with(
            "users[\"admin\"].ssh_keys[1] is not a valid SSH public key: it does not start"
        ),
        "{refused}"
    );
    assert!(refused.contains("file(\"id_ed25519.pub\")"), "{refused}");
}

#[test]
fn users_are_checked() {
    let refused = |name: &str, user: Value| refusal(&[("users", object(&[(name, user)]))]);
    for name in ["Admin", "1st", "a b", "", "x:y", "../up"] {
        assert!(
            refused(name, object(&[])).contains("is not a valid user name"),
            "{name}"
        );
    }
    let password = refused("admin", object(&[("password_hash", text("hunter2"))]));
    assert!(
        password.contains("is not a crypt(5) hash") && !password.contains("hunter2"),
        "{password}"
    );
    assert!(refused("admin", uid(0)).contains("0 is out of range"));
    assert!(refused("root", uid(1000)).contains("root is in the tree"));
    let two = refusal(&[("users", object(&[("a", uid(1500)), ("b", uid(1500))]))]);
    assert!(
        two.starts_with("\"a\" and \"b\" both have the UID 1500"),
        "{two}"
    );
}

#[test]
fn what_cannot_be_a_disk_is_refused() {
    for (name, value, expected) in [
        ("size", text("8GB"), "is not a valid size"),
        ("size", text("1024KiB"), "the partitions need"),
        ("size", text("1025KiB"), "is not a multiple of 1MiB"),
        ("size", text("0MiB"), "is zero"),
        (
            "size",
            text("64MiB"),
            "need 83 MiB, and the disk has 64 MiB",
        ),
        (
            "file_system",
            text("xfs"),
            "a root of xfs is not supported yet",
        ),
        ("efi_size", text("8MiB"), "an EFI system partition of 8 MiB"),
        (
            "label",
            text("seventeen-letters"),
            "is not a valid label for ext4",
        ),
        ("hostname", text("-x"), "is not a valid host name"),
        (
            "kernel_arguments",
            list(&[text("a b")]),
            "is not a single kernel argument",
        ),
        (
            "kernel_arguments",
            list(&[text("root=/dev/sda")]),
            "already set by its UUID",
        ),
        ("seed", text(""), "the seed is empty"),
    ] {
        let refused = refusal(&[(name, value)]);
        assert!(refused.contains(expected), "{name}: {refused}");
    }
}

#[test]
fn one_partition_takes_what_is_left() {
    let data = |pairs: &[(&str, Value)]| {
        let own = [("name", text("data")), ("mount", text("/srv"))];
        object(&[&own[..], pairs].concat())
    };
    let root = ("root_size", text("1GiB"));
    let spec = spec_of(&[root.clone(), ("partitions", list(&[data(&[])]))]);
    assert_eq!(
        (spec.root_size, spec.partitions[0].size),
        (Some(1 << 30), None)
    );
    let sized = [data(&[("size", text("64MiB"))])];
    for (params, expected) in [
        (
            vec![("partitions", list(&[data(&[])]))],
            "partitions[0]: it has no `size`, and the root takes the rest of the disk",
        ),
        (
            vec![root.clone(), ("partitions", list(&sized))],
            "nothing takes what the root leaves",
        ),
        (
            vec![root.clone(), ("table", text("none"))],
            "the root is all of a disk without partition table",
        ),
        (
            vec![
                ("root_size", text("8MiB")),
                ("partitions", list(&[data(&[])])),
            ],
            "a root of 8 MiB",
        ),
        (
            vec![
                root.clone(),
                (
                    "partitions",
                    list(&[
                        data(&[]),
                        object(&[("name", text("more")), ("mount", text("/opt"))]),
                    ]),
                ),
            ],
            "partitions[1]: it has no `size`, and \"data\" takes the rest",
        ),
        (
            vec![
                root,
                (
                    "partitions",
                    list(&[data(&[("file_system", text("vfat"))])]),
                ),
            ],
            "it takes the rest of the disk, and could not grow with it",
        ),
    ] {
        let refused = refusal(&params);
        assert!(refused.contains(expected), "{params:?}: {refused}");
    }
}

#[test]
fn partitions_are_checked() {
    let refused = |pairs: &[(&str, Value)]| {
        let base = [("name", text("data")), ("size", text("64MiB"))];
        refusal(&[("partitions", list(&[object(&[&base[..], pairs].concat())]))])
    };
    for (pairs, expected) in [
        (
            &[("name", text("root"))][..],
            "another partition named \"root\"",
        ),
        (
            &[("name", text("a b"))],
            "is not a valid name for a partition",
        ),
        (&[("mount", text("/"))], "\"/\" is not a valid mount point"),
        (
            &[("mount", text("/boot/efi/"))],
            "/boot cannot be separate from the root",
        ),
        (
            &[("mount", text("/usr"))],
            "/usr cannot be separate from the root",
        ),
        (&[("mount", text("srv"))], "is not a valid mount point"),
        (
            &[("mount", text("/srv/../etc"))],
            "is not a valid mount point",
        ),
        (
            &[("file_system", text("swap")), ("mount", text("/srv"))],
            "no file system that could be mounted",
        ),
        (
            &[("file_system", text("vfat")), ("label", text("lower"))],
            "is not a valid label for FAT",
        ),
        (&[("size", text("4MiB"))], "4 MiB is too small"),
        (&[("file_system", text("xfs"))], "64 MiB is too small"),
        (
            &[
                ("file_system", text("xfs")),
                ("label", text("thirteen-long")),
            ],
            "is not a valid label for xfs",
        ),
    ] {
        let refused = refused(pairs);
        assert!(
            refused.starts_with("partitions[0]") && refused.contains(expected),
            "{pairs:?}: {refused}"
        );
    }
}
