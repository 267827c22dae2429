//! The cost of a page of a large CSV file, at its beginning and at its end, and of all its pages compared with a plain
//! `csv` reader. The file is created in the temporary folder, and deleted.
//!
//! ```text
//! cargo bench --no-default-features --features files --bench files -- [MB, 1000 by default]
//! ```

use std::{
    fs::File,
    io::{BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use temporal_batch::{
    Next, PageRange,
    files::{CsvSource, FilePosition},
};

const PAGE: usize = 1_000;
const PAGES: usize = 200;
const PAIRS: usize = 3;

/// A record, as both readers deserialize it.
#[derive(serde::Deserialize)]
#[allow(dead_code, reason = "read as any program would")]
struct Row {
    id: u64,
    name: String,
    email: String,
    amount: f64,
    note: String,
}

fn main() {
    let given = std::env::args().skip(1).find_map(|mb| mb.parse().ok());
    let bytes = given.unwrap_or(1_000) * 1_000_000_u64;
    let path = std::env::temp_dir().join(format!("temporal-batch-{}.csv", std::process::id()));
    let file = Cleaned(path);
    let rows = make(&file.0, bytes);
    println!("{rows} records, {} MB", bytes / 1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(measure(&file.0, rows));
}

/// A file that is deleted at the end, even of a run that fails.
struct Cleaned(PathBuf);

impl Drop for Cleaned {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes rows of about 120 bytes. Every tenth has quotes, commas and a line end in a field.
fn make(path: &Path, bytes: u64) -> u64 {
    let mut file = BufWriter::new(File::create(path).expect("a temporary file"));
    let mut written = 0;
    let mut id = 0_u64;
    let mut put = |line: &str| {
        file.write_all(line.as_bytes()).expect("space for the file");
        written += line.len() as u64;
        written < bytes
    };
    put("id,name,email,amount,note\n");
    loop {
        id += 1;
        let note = match id % 10 {
            0 => "\"said \"\"no\"\", twice,\nand went away without a word\"",
            _ => "nothing of note, were it not for the commas".trim_end_matches(','),
        };
        let note = if id.is_multiple_of(10) {
            note.to_owned()
        } else {
            note.replace(',', ";")
        };
        let line = format!(
            "{id},Customer Number {id},customer.{id}@mail.example.org,{}.{:02},{note}\n",
            id % 10_000,
            id % 100
        );
        if !put(&line) {
            return id;
        }
    }
}

async fn measure(path: &Path, rows: u64) {
    let source = CsvSource::new(path).prepare().await.expect("a CSV file");
    // Either both ends are in the page cache, or neither is.
    plain(path);
    let tail = rows - (PAGE * PAGES) as u64 - 1;
    let everything = PageRange::new(None, None);
    let since = Instant::now();
    let end = source.skip(&everything, tail).await.expect("a CSV file");
    let skipped = since.elapsed();
    println!(
        "skip ahead over {tail} records: {:.2} s, {:.1} M records/s",
        skipped.as_secs_f64(),
        tail as f64 / skipped.as_secs_f64() / 1e6
    );
    let mut ratios = Vec::new();
    for _ in 0..PAIRS {
        let first = pages(&source, None).await;
        let last = pages(&source, end).await;
        let ratio = last.as_secs_f64() / first.as_secs_f64();
        println!(
            "median page of {PAGE} records: beginning {:.0} us, end {:.0} us, ratio {ratio:.3}",
            first.as_secs_f64() * 1e6,
            last.as_secs_f64() * 1e6
        );
        ratios.push(ratio);
    }
    println!(
        "cost of a page, end / beginning: {:.3}",
        median(&mut ratios)
    );

    let mut ratios = Vec::new();
    for _ in 0..PAIRS {
        let (plain, found) = timed(|| plain(path));
        assert_eq!(found, rows);
        let since = Instant::now();
        assert_eq!(all(&source).await, rows);
        let paged = since.elapsed();
        let ratio = plain.as_secs_f64() / paged.as_secs_f64();
        println!(
            "all records: plain reader {:.2} s, pages {:.2} s, ratio {ratio:.3}",
            plain.as_secs_f64(),
            paged.as_secs_f64()
        );
        ratios.push(ratio);
    }
    println!(
        "throughput, pages / plain reader: {:.3}",
        median(&mut ratios)
    );
}

fn plain(path: &Path) -> u64 {
    let file = BufReader::with_capacity(128 * 1024, File::open(path).expect("the file"));
    let rows = csv::Reader::from_reader(file).into_deserialize::<Row>();
    rows.inspect(|row| assert!(row.is_ok(), "a row")).count() as u64
}

/// The median time of a few pages from a position on.
async fn pages(source: &CsvSource, start: Option<FilePosition>) -> Duration {
    let mut start = start;
    let mut times = Vec::new();
    for _ in 0..PAGES {
        let range = PageRange::new(start, None);
        let since = Instant::now();
        let page = source.page::<Row>(&range, PAGE).await.expect("a page");
        times.push(since.elapsed().as_secs_f64());
        assert_eq!(page.items().len(), PAGE);
        if let Next::At(next) = page.next() {
            start = Some(*next);
        }
    }
    Duration::from_secs_f64(median(&mut times))
}

async fn all(source: &CsvSource) -> u64 {
    let mut start = None;
    let mut records = 0;
    loop {
        let range = PageRange::new(start, None);
        let page = source.page::<Row>(&range, PAGE).await.expect("a page");
        records += page.items().len() as u64;
        match page.next() {
            Next::At(next) => start = Some(*next),
            Next::End => return records,
        }
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let since = Instant::now();
    let result = work();
    (since.elapsed(), result)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
