mod connections;
mod descriptions;
mod service;

use super::{FailureKind, Name};

#[test]
fn exit_codes_are_those_that_are_documented() {
    let codes: Vec<_> = FailureKind::ALL.into_iter().map(|kind| (kind, kind.exit_code())).collect();
    let expected = [2, 5, 6, 7, 64, 65, 66, 67, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78];
    assert_eq!(codes.iter().map(|(_, code)| *code).collect::<Vec<_>>(), expected);
    for (kind, code) in codes {
        for description in
            [include_str!("../io.blkseal.Daemon.varlink"), include_str!("../io.blkseal.Worker.varlink")]
        {
            let sentence = format!("exits with {code}.\nerror {kind:?} (message: string, hint: ?string)");
            assert!(description.contains(&sentence), "{sentence}");
        }
    }
}

#[test]
fn names_are_safe_in_paths() {
    for good in ["a", "vm-1.disk_0", "0", &"x".repeat(64)] {
        assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
    }
    let uuid = "c0a8b2de-2f0b-4a8e-9d51-0e4c9a4f7b11";
    for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", "a\n", "a\0", uuid, &"x".repeat(65)] {
        let error = bad.parse::<Name>().unwrap_err().to_string();
        assert!(error.starts_with(&format!("'{bad}' cannot be a name")), "{error}");
    }
}
