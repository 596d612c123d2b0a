//! What `blkseal man` and `blkseal completions` make.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::blkseal;

#[test]
fn there_is_a_manual_page_for_every_command_and_it_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("made/man1");
    let output = blkseal(Path::new("/nowhere")).arg("--json").arg("man").arg(&pages).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let said: BTreeSet<&str> =
        answer["files"].as_array().unwrap().iter().filter_map(|file| file.as_str()).collect();
    let there: BTreeSet<String> = std::fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(said, there.iter().map(String::as_str).collect());
    for name in [
        "blkseal",
        "blkseal-open",
        "blkseal-provider-add-native",
        "blkseal-recovery-remove",
        "blkseal-study-null",
    ] {
        assert!(there.contains(pages.join(format!("{name}.1")).to_str().unwrap()), "{name}");
    }
    assert!(!there.iter().any(|path| path.contains("worker")), "what is hidden has no page");
    for page in &there {
        let text = std::fs::read_to_string(page).unwrap();
        assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{page}");
    }
    let text = std::fs::read_to_string(pages.join("blkseal.1")).unwrap();
    assert!(text.contains(".SH EXAMPLES") && text.contains(".SH \"EXIT CODES\""), "{text}");
    assert!(text.contains("blkseal provider add native office") && text.contains("75  Locked"), "{text}");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let output = blkseal(Path::new("/nowhere")).args(["man", "/dev/null/man1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(74));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/dev/null/man1"));
}

/// The shell itself says whether the script is one, and what it completes.
#[test]
fn bash_completes_the_commands() {
    let script = "source <(\"$0\" completions bash) && COMP_WORDS=(blkseal pro) COMP_CWORD=1 && \
                  _blkseal blkseal pro blkseal && echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_blkseal")]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "provider", "{output:?}");
}
