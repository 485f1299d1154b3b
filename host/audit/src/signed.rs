//! What the host signs beside heads of logs: a title, and under it one line of canonical JSON (RFC 8785), as a C2SP signed note.
//!
//! Text in, text out; must never hold a private key. SECURITY: the keys also sign heads, whose first line is the name of a log.
//! A title is none, and no two sorts of text may share one.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::AuditError;
use crate::note::Verifier;

/// Why a note is not the text that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Changed, cut, too long, or signed by somebody else.
    Signature,
    /// Signed, and something else, or not in canonical form.
    Form,
}

/// The text that gets signed; its note may be `bytes_max` long.
pub(crate) fn text<T: Serialize>(title: &str, said: &T, bytes_max: usize) -> Result<String, AuditError> {
    let json = serde_json_canonicalizer::to_string(said).map_err(|_| AuditError::Unrepresentable)?;
    if json.len() > bytes_max / 2 {
        return Err(AuditError::Unrepresentable);
    }
    Ok(format!("{title}\n{json}\n"))
}

/// What a note says, and the text that was signed.
pub(crate) fn open<T: Serialize + DeserializeOwned>(
    title: &str,
    note: &str,
    verifier: &Verifier,
    bytes_max: usize,
) -> Result<(T, String), Unread> {
    let signed = verifier.open_text(note, bytes_max).ok_or(Unread::Signature)?;
    let json = signed.strip_prefix(title).and_then(|rest| rest.strip_prefix('\n'));
    let json = json.and_then(|rest| rest.strip_suffix('\n')).ok_or(Unread::Form)?;
    let said: T = serde_json::from_str(json).map_err(|_| Unread::Form)?;
    // One form for one meaning: nothing may stand there that nobody reads.
    if text(title, &said, bytes_max).ok().as_deref() != Some(signed.as_str()) {
        return Err(Unread::Form);
    }
    Ok((said, signed))
}
