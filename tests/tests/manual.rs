//! What the programs that read our manual pages and completions make of them.

use rig::{Command, Host};

#[test]
fn every_command_has_a_page_that_groff_reads_without_complaint() {
    let host = Host::bare();
    let agent = host.port_agent();
    host.sh("mkdir /run/man8");
    let pages = agent.run("man /run/man8");
    let commands =
        ["", "-up", "-down", "-run", "-status", "-topology", "-doctor", "-ledger-verify"];
    for command in commands {
        let page = format!("/run/man8/ovs-port-agent{command}.8");
        assert!(pages.contains(&page), "{page} is missing of {pages}");
    }
    for page in pages.lines() {
        let output =
            Command::new("groff").args(["-k", "-man", "-ww", "-z", page]).output().success();
        assert_eq!(output.stderr, "", "{page}");
    }
    let shown =
        Command::new("groff").args(["-k", "-man", "-Tascii", "/run/man8/ovs-port-agent-doctor.8"]);
    let shown = shown.run();
    assert!(shown.contains("ovs-port-agent doctor --quiet"), "{shown}");
    let output = agent.output("man /run/nothing");
    assert!(!output.ok() && output.stderr.contains("cannot write /run/nothing/"), "{output}");
}

#[test]
fn bash_completes_commands_and_options() {
    let host = Host::bare();
    let complete = |words: &str, at: usize| {
        let agent = host.port_agent().path().display().to_string();
        host.write(
            "/run/ask",
            &format!(
                "source <({agent} completions bash)\nCOMP_WORDS=({words})\nCOMP_CWORD={at}\n\
                 complete=$(complete -p ovs-port-agent)\nfunction=${{complete##*-F }}\n\
                 ${{function%% *}} ovs-port-agent \"${{COMP_WORDS[{at}]}}\" \
                 \"${{COMP_WORDS[{at}-1]}}\"\necho \"${{COMPREPLY[@]}}\"\n"
            ),
        );
        Command::new("bash").args(["/run/ask"]).run()
    };
    assert_eq!(complete("ovs-port-agent doc", 1).trim(), "doctor");
    assert!(complete("ovs-port-agent topology --", 2).contains("--svg"));
    assert_eq!(complete("ovs-port-agent ledger ver", 2).trim(), "verify");
    for shell in ["zsh", "fish"] {
        let text = host.port_agent().run(&format!("completions {shell}"));
        assert!(text.contains("topology"), "{shell}: {text}");
    }
    let output = host.port_agent().output("completions tcsh");
    assert!(!output.ok() && output.stderr.contains("bash, zsh, fish"), "{output}");
}
