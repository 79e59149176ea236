//! What the garage is deployed with agrees with the schemas of those who read it. The validators' Python is in `LEVERET_TEST_VALIDATORS`.

use std::{path::PathBuf, process::Command};

fn root() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().and_then(std::path::Path::parent);
    root.expect("below the root").to_owned()
}

/// None: there are no validators, and the test is skipped.
fn python() -> Option<Command> {
    let Ok(python) = std::env::var("LEVERET_TEST_VALIDATORS") else {
        println!("skipped: LEVERET_TEST_VALIDATORS is not set");
        return None;
    };
    Some(Command::new(python))
}

/// Whether it is accepted, with what was said.
fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().expect("Python starts");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.success(), text)
}

/// Each manifest is good, and one with a mistake is refused.
#[test]
fn manifests_are_what_kubernetes_takes() {
    let check = |text: &str, name: &str| {
        let mut python = python()?;
        let file = std::env::temp_dir().join(format!("garage-{}-{name}", std::process::id()));
        std::fs::write(&file, text).expect("writes");
        let told = run(python
            .args(["-m", "kubernetes_validate", "--strict"])
            .arg(&file));
        std::fs::remove_file(&file).expect("removes");
        Some(told)
    };
    let files = std::fs::read_dir(root().join("deploy/garage")).expect("is there");
    let mut kinds = Vec::new();
    for file in files {
        let path = file.expect("reads").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.file_name().expect("a name").to_string_lossy();
        let text = std::fs::read_to_string(&path).expect("reads");
        let Some((good, told)) = check(&text, &name) else {
            return;
        };
        assert!(good, "{told}");
        let named = text.lines().filter_map(|line| line.strip_prefix("kind: "));
        kinds.extend(named.map(str::to_owned));
        let spoilt = text.replacen("metadata:", "metaData:", 1);
        let (good, told) = check(&spoilt, &name).expect("still there");
        assert!(!good, "a mistake is overlooked: {told}");
    }
    let count = |kind: &str| kinds.iter().filter(|known| *known == kind).count();
    assert_eq!(count("Namespace"), 1);
    assert_eq!(count("StatefulSet"), 1);
    assert_eq!(count("Deployment"), 3);
    assert_eq!(count("Service"), 4);
    assert_eq!(count("Secret"), 0, "secrets are by reference");
}

/// `compose.yaml` is good as it stands, with the defaults of its variables, and with a mistake it is refused.
#[test]
fn compose_is_what_docker_takes() {
    const CHECK: &str = "
import re, sys, compose_spec
text = re.sub(r'\\$\\{[A-Z_]+:-([^}]*)\\}', r'\\1', sys.argv[1])
compose = compose_spec.PyCompose.from_yaml(text)
compose.validate()
compose.to_spec()
print(' '.join(compose.service_names()))
";
    let check = |text: &str| Some(run(python()?.args(["-c", CHECK, text])));
    let text = std::fs::read_to_string(root().join("compose.yaml")).expect("is there");
    let Some((good, told)) = check(&text) else {
        return;
    };
    assert!(good, "{told}");
    for service in [
        "rabbitmq",
        "mongodb",
        "garage-os-db",
        "garage-execution-db",
        "garage-os",
        "garage-billing",
        "garage-execution",
        "garage-gateway",
    ] {
        let is_there = told.split_whitespace().any(|known| known == service);
        assert!(is_there, "no {service} in {told}");
    }
    for (right, wrong) in [
        ("profiles: [garage]", "profile: [garage]"),
        ("condition: service_healthy", "condition: healthy"),
    ] {
        let (good, told) = check(&text.replacen(right, wrong, 1)).expect("still there");
        assert!(!good, "a mistake is overlooked: {told}");
    }
}
