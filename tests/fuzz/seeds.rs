//! Writes the inputs to begin with into the directory named.
#[allow(dead_code, reason = "shared with tests/spool")]
mod body;
#[allow(dead_code, reason = "shared with tests/spool")]
mod forge;

fn main() {
    let dir = std::path::PathBuf::from(std::env::args().nth(1).expect("a directory"));
    std::fs::create_dir_all(&dir).unwrap();
    for (i, seed) in body::seeds().iter().enumerate() {
        std::fs::write(dir.join(format!("seed-{i}")), seed).unwrap();
    }
}
