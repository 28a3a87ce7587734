//! The regular expressions of uap-core, out of the package of the crate `ua-parser`, which
//! carries them but leaves loading them to its users: what Cargo.lock pins is the one copy.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let yaml = parser_package()?.join("uap-core/regexes.yaml");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", yaml.display());
    let text = fs::read_to_string(&yaml).map_err(|error| format!("{}: {error}", yaml.display()))?;
    let regexes: Value = serde_saphyr::from_str(&text)?;
    // JSON loads without a YAML parser in the binary.
    let json = PathBuf::from(env::var("OUT_DIR")?).join("uap-core.json");
    fs::write(json, serde_json::to_vec(&regexes)?)?;
    Ok(())
}

/// The folder of the crate `ua-parser`, by Cargo's own answer: it may be a registry's or vendored.
fn parser_package() -> Result<PathBuf, Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let output = Command::new(env::var("CARGO")?)
        .args(["metadata", "--format-version=1", "--filter-platform"])
        .arg(env::var("TARGET")?)
        .arg("--manifest-path")
        .arg(manifest)
        .output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest = packages
        .filter(|package| package["name"] == "ua-parser")
        .find_map(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata names no package ua-parser")?;
    Ok(PathBuf::from(manifest).parent().ok_or("ua-parser is in no folder")?.to_owned())
}
