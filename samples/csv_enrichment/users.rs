//! The file of users, made from a seed.

use std::{fmt::Write as _, path::Path};

use serde::Deserialize;

/// A record of the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct User {
    pub id: u64,
    pub name: String,
    pub country: String,
}

const NAMES: [&str; 6] = ["Ann", "Bo, jr.", "Chloé", "\"\"Dee\"\"", "Eve", "Finn"];
const COUNTRIES: [&str; 6] = ["DE", "FR", "US", "BR", "JP", "IN"];

/// Returns the content of a file of this many users. Names have commas, quotes and letters beyond ASCII.
pub fn csv(count: u64, seed: u64) -> String {
    let mut text = "id,name,country\n".to_owned();
    for id in 1..=count {
        let random = mixed(seed, id);
        let name = NAMES[(random % 6) as usize];
        let country = COUNTRIES[(random / 6 % 6) as usize];
        writeln!(text, "{id},\"{name}\",{country}").expect("a text can be written to");
    }
    text
}

pub fn write(path: &Path, count: u64, seed: u64) -> std::io::Result<()> {
    std::fs::write(path, csv(count, seed))
}

/// Returns a number that looks random and depends only on the arguments.
pub fn mixed(seed: u64, id: u64) -> u64 {
    let mut x = seed ^ id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
