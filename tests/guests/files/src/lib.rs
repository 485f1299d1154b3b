//! Works on files with nothing but the standard library. The path names the act, the query its arguments, and what the
//! library answers is the answer: `PUT /write?at=/a`, `GET /read?at=/a&from=3`, `GET /list?at=/`, `/hostile`.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};

use ringfence_sdk::{Request, plugin};

#[plugin]
async fn files(mut request: Request) -> (u16, String) {
    let act = request.path().trim_start_matches('/').to_owned();
    let at = request.query("at").unwrap_or_default();
    let to = request.query("to").unwrap_or_default();
    let from = request.query("from").and_then(|text| text.parse().ok()).unwrap_or(0);
    let body = request.body().bytes().await.unwrap_or_default();
    let done = match act.as_str() {
        "write" => fs::write(&at, &body).map(|()| String::new()),
        "append" => append(&at, &body).map(|()| String::new()),
        "patch" => patch(&at, from, &body).map(|()| String::new()),
        "read" => read(&at, from),
        "list" => list(&at),
        "stat" => {
            fs::metadata(&at).map(|about| format!("{} {}", if about.is_dir() { "dir" } else { "file" }, about.len()))
        }
        "cut" => OpenOptions::new().write(true).open(&at).and_then(|file| file.set_len(from)).map(|()| String::new()),
        "mkdir" => fs::create_dir_all(&at).map(|()| String::new()),
        "rename" => fs::rename(&at, &to).map(|()| String::new()),
        "remove" => fs::remove_file(&at).map(|()| String::new()),
        "rmdir" => fs::remove_dir(&at).map(|()| String::new()),
        "rmtree" => fs::remove_dir_all(&at).map(|()| String::new()),
        "link" => fs::hard_link(&at, &to).map(|()| String::new()),
        "create-new" => File::create_new(&at).map(|_| String::new()),
        "fill" => fill(&at, from).map(|()| String::new()),
        _ => Err(ErrorKind::InvalidInput.into()),
    };
    match done {
        Ok(text) => (200, text),
        Err(error) => (409, format!("{:?}\n", error.kind())),
    }
}

fn append(at: &str, body: &[u8]) -> std::io::Result<()> {
    OpenOptions::new().append(true).create(true).open(at)?.write_all(body)
}

fn patch(at: &str, from: u64, body: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(at)?;
    file.seek(SeekFrom::Start(from))?;
    file.write_all(body)?;
    file.sync_all()
}

fn read(at: &str, from: u64) -> std::io::Result<String> {
    let mut file = File::open(at)?;
    file.seek(SeekFrom::Start(from))?;
    let mut all = Vec::new();
    file.read_to_end(&mut all)?;
    Ok(String::from_utf8_lossy(&all).into_owned())
}

fn list(at: &str) -> std::io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(at)? {
        let entry = entry?;
        let mark = if entry.file_type()?.is_dir() { "/" } else { "" };
        names.push(format!("{}{mark}\n", entry.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(names.concat())
}

fn fill(at: &str, mut bytes: u64) -> std::io::Result<()> {
    let mut file = File::create(at)?;
    let piece = vec![b'x'; 1 << 20];
    while bytes > 0 {
        let count = piece.len().min(bytes as usize);
        file.write_all(&piece[..count])?;
        bytes -= count as u64;
    }
    Ok(())
}
