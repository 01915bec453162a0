//! A test in a process of its own: for what all threads of a process share.

use std::process::Command;

const MARK: &str = "FLEET_HEALTH_ALONE";

/// Runs `test`, which is called from the test with this name, in a process where nothing else runs.
pub fn alone(name: &str, test: fn()) {
    if std::env::var(MARK).is_ok_and(|v| v == name) {
        return test();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let done = child.args(["--exact", name, "--nocapture"]).env(MARK, name).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{:?}: {said} {}", done.status, String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("1 passed"), "{said}");
}
