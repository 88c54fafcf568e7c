//! What is installed: the Debian package, the container, manual pages, completions, the reference
//! configuration.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::path::{Path, PathBuf};

use support::node::{Node, PROGRAM, Setup};
use support::process::{attempt, output, said};
use support::scratch;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_reference_configurations_have_no_problem() {
    let mut files = vec![root("ops/mxfleet.toml")];
    files.extend(["mx1", "mx2", "mx3"].map(|name| root(&format!("ops/compose/{name}.toml"))));
    for file in files {
        output(PROGRAM, &["check-config", file.to_str().unwrap()]);
    }
}

#[test]
fn the_debian_package_has_all_a_host_needs_and_works_when_unpacked() {
    let folder = scratch();
    let built = output(
        root("ops/debian/build").to_str().unwrap(),
        &[PROGRAM, folder.path().to_str().unwrap()],
    );
    let package = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let package = package.to_str().unwrap();
    assert!(package.contains("mxfleet_") && package.ends_with(".deb"), "{built}");
    let field = |name: &str| output("dpkg-deb", &["--field", package, name]).trim().to_owned();
    assert_eq!(field("Package"), "mxfleet");
    assert!(output(PROGRAM, &["--version"]).contains(&field("Version")));
    let contents = output("dpkg-deb", &["--contents", package]);
    for path in [
        "./usr/bin/mxfleet",
        "./etc/mxfleet/mxfleet.toml",
        "./lib/systemd/system/mxfleet.service",
        "./lib/systemd/system/mxfleet.socket",
        "./usr/lib/sysusers.d/mxfleet.conf",
        "./usr/share/man/man1/mxfleet.1.gz",
        "./usr/share/man/man1/mxfleet-queue-list.1.gz",
        "./usr/share/bash-completion/completions/mxfleet",
        "./usr/share/zsh/vendor-completions/_mxfleet",
        "./usr/share/fish/vendor_completions.d/mxfleet.fish",
        "./usr/share/doc/mxfleet/ops/runbooks/NodeDown.md",
        "./usr/share/doc/mxfleet/changelog.gz",
    ] {
        let owned = |line: &str| line.ends_with(path) && line.contains(" root/root ");
        assert!(contents.lines().any(owned), "no {path} of root's:\n{contents}");
    }
    let place = folder.path().join("unpacked");
    output("dpkg-deb", &["--raw-extract", package, place.to_str().unwrap()]);
    for script in ["postinst", "prerm", "postrm"] {
        output("sh", &["-n", place.join("DEBIAN").join(script).to_str().unwrap()]);
    }
    let listed = std::fs::read_to_string(place.join("DEBIAN/conffiles")).unwrap();
    assert_eq!(listed, "/etc/mxfleet/mxfleet.toml\n");
    let program = place.join("usr/bin/mxfleet");
    let config = place.join("etc/mxfleet/mxfleet.toml");
    output(program.to_str().unwrap(), &["check-config", config.to_str().unwrap()]);
    // What it needs of the system is what the package says.
    let libraries = output("ldd", &[program.to_str().unwrap()]);
    for line in libraries.lines() {
        let known = ["linux-vdso", "libgcc_s", "libm.so", "libc.so", "ld-linux"];
        assert!(known.iter().any(|library| line.contains(library)), "{libraries}");
    }
}

#[test]
fn manual_pages_and_completions_cover_every_command() {
    let folder = scratch();
    output(PROGRAM, &["man", folder.path().to_str().unwrap()]);
    let page = folder.path().join("mxfleet-cluster-join.1");
    let shown = output("man", &["--warnings", "--local-file", page.to_str().unwrap()]);
    assert!(shown.contains("mxfleet-cluster-join") || shown.contains("join"), "{shown}");
    assert!(shown.contains("--peer"), "{shown}");
    for shell in ["bash", "zsh", "fish"] {
        let script = output(PROGRAM, &["completions", shell]);
        for word in ["blacklist", "check-config", "pardon"] {
            assert!(script.contains(word), "{shell} does not complete {word}");
        }
    }
    let bash = folder.path().join("completion.bash");
    std::fs::write(&bash, output(PROGRAM, &["completions", "bash"])).unwrap();
    output("bash", &["-n", bash.to_str().unwrap()]);
}

#[test]
fn health_is_asked_as_a_container_asks_it() {
    let mut node = Node::with(&Setup::default());
    let config = node.config();
    let health = |more: &[&str]| {
        let words = [&["health", "--config", config.to_str().unwrap()], more].concat();
        attempt(PROGRAM, &words)
    };
    let well = health(&[]);
    assert!(well.status.success() && said(&well).contains("the process runs"), "{}", said(&well));
    assert!(health(&["--ready"]).status.success());
    node.kill();
    let gone = health(&[]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(said(&gone).contains("the node does not listen on"), "{}", said(&gone));
}

/// The words of a Dockerfile's last instruction of this kind.
fn instruction(dockerfile: &str, name: &str) -> String {
    let joined = dockerfile.replace("\\\n", " ");
    let found = joined.lines().rev().find_map(|line| line.strip_prefix(&format!("{name} ")));
    found.unwrap_or_else(|| panic!("no {name}")).to_owned()
}

#[test]
fn the_container_is_nobody_writes_nowhere_else_and_asks_itself() {
    let dockerfile = std::fs::read_to_string(root("Dockerfile")).unwrap();
    let user = instruction(&dockerfile, "USER");
    let (uid, gid) = user.split_once(':').unwrap();
    assert!(uid.parse::<u32>().unwrap() > 0 && gid.parse::<u32>().unwrap() > 0, "{user}");
    assert_eq!(instruction(&dockerfile, "ENTRYPOINT"), r#"["mxfleet"]"#);
    // Both are run here as they stand there, with another file.
    let folder = scratch();
    let config = folder.path().join("mxfleet.toml");
    std::fs::copy(root("ops/mxfleet.toml"), &config).unwrap();
    for (name, code) in [("CMD", None), ("HEALTHCHECK", Some(1))] {
        let words = instruction(&dockerfile, name);
        let words: Vec<String> = serde_json::from_str(&words[words.find('[').unwrap()..]).unwrap();
        let words = words.iter().filter(|word| *word != "mxfleet");
        let words: Vec<&str> = words.map(String::as_str).collect();
        assert_eq!(words.last(), Some(&"/etc/mxfleet/mxfleet.toml"));
        if let Some(code) = code {
            let here = [&words[..words.len() - 1], &[config.to_str().unwrap()]].concat();
            assert_eq!(attempt(PROGRAM, &here).status.code(), Some(code), "{name}");
        }
    }
}

#[test]
fn the_compose_file_names_what_there_is() {
    let script = r#"
import json, sys, yaml
print(json.dumps(yaml.safe_load(open(sys.argv[1]))))
"#;
    let file = root("ops/compose.yml");
    let parsed = output("python3", &["-c", script, file.to_str().unwrap()]);
    let compose: serde_json::Value = serde_json::from_str(&parsed).unwrap();
    let services = compose["services"].as_object().unwrap();
    for name in ["mx1", "mx2", "mx3", "prometheus", "blackbox", "grafana"] {
        assert!(services.contains_key(name), "no {name}");
    }
    for name in ["begin", "mx1", "join-mx2", "mx2", "join-mx3", "mx3"] {
        assert_eq!(services[name]["read_only"], true, "{name}");
        assert_eq!(services[name]["cap_drop"][0], "ALL", "{name}");
    }
    let volumes = compose["volumes"].as_object().unwrap();
    for (name, service) in services {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            let there = match source.strip_prefix("./") {
                Some(path) => root("ops").join(path).exists(),
                None => volumes.contains_key(source),
            };
            assert!(there, "{name} mounts {source}, which is not there");
        }
    }
    // Prometheus finds the nodes by the names it has in its own file.
    let prometheus = std::fs::read_to_string(root("ops/prometheus/prometheus.yml")).unwrap();
    for (number, name) in (1..).zip(["mx1", "mx2", "mx3"]) {
        let address = &services[name]["networks"]["fleet"]["ipv4_address"];
        let config = std::fs::read_to_string(root(&format!("ops/compose/{name}.toml"))).unwrap();
        let advertised = format!("advertise = \"{}:4190\"", address.as_str().unwrap());
        assert!(config.contains(&advertised), "{name}: {advertised}");
        for alias in services[name]["networks"]["fleet"]["aliases"].as_array().unwrap() {
            let alias = alias.as_str().unwrap();
            assert!(prometheus.contains(alias), "{alias} is not watched ({number})");
        }
    }
}
