//! A small KMS over HTTP that seals nothing and checks no signature: what is tested is what is wrapped while a rotation of its key
//! is in progress.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::transit::{Asked, read};

/// The service. Cheap to clone.
#[derive(Clone, Default)]
pub struct Kms(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    is_rotating: bool,
    /// Rotations that are over.
    over_count: u32,
    /// What was encrypted: whose, and how many rotations were over then.
    wraps: Vec<(String, u32)>,
}

impl Kms {
    /// Serves until the test program ends; its address below.
    pub fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let this = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // Who asked may have gone away.
                this.answer(&stream.unwrap()).unwrap_or_default();
            }
        });
        format!("http://{address}")
    }

    /// A rotation begins, as somebody asked for.
    pub fn begin_rotation(&self) {
        self.0.lock().unwrap().is_rotating = true;
    }

    /// It is over.
    pub fn end_rotation(&self) {
        let mut state = self.0.lock().unwrap();
        (state.is_rotating, state.over_count) = (false, state.over_count + 1);
    }

    /// What was encrypted for tenants and the host since this was asked last: whose, and how many rotations were over then.
    pub fn take_wraps(&self) -> Vec<(String, u32)> {
        let mut wraps = std::mem::take(&mut self.0.lock().unwrap().wraps);
        wraps.retain(|(whose, _)| whose != "_probe");
        wraps
    }

    fn answer(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let Asked { target, body, .. } = read(stream)?;
        let body = self.act(&target, &body).to_string();
        write!(stream, "HTTP/1.1 200 x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    fn act(&self, target: &str, body: &Value) -> Value {
        let mut state = self.0.lock().unwrap();
        match target {
            "TrentService.Encrypt" => {
                let context = &body["EncryptionContext"];
                let wrap = (context["ringfence:tenant"].as_str().unwrap().to_owned(), state.over_count);
                state.wraps.push(wrap);
                let blob = json!({ "context": context, "plain": body["Plaintext"] }).to_string();
                json!({ "CiphertextBlob": BASE64.encode(blob.as_bytes()), "KeyId": "arn" })
            }
            "TrentService.Decrypt" => {
                let blob = BASE64.decode(body["CiphertextBlob"].as_str().unwrap().as_bytes()).unwrap();
                let blob: Value = serde_json::from_slice(&blob).unwrap();
                assert_eq!(blob["context"], body["EncryptionContext"]);
                json!({ "Plaintext": blob["plain"] })
            }
            "TrentService.GetKeyRotationStatus" if state.is_rotating => {
                json!({ "OnDemandRotationStartDate": 1.795e9 })
            }
            "TrentService.GetKeyRotationStatus" => json!({}),
            other => panic!("not an act of KMS that is asked for here: {other}"),
        }
    }
}
