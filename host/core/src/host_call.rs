//! What a guest asks of the host, in the words of policies: the act, and the thing it is done to.
//!
//! Must never name a tenant or a plugin: who asks is fixed before its first call, and what it asks for is its own.

use crate::{PluginName, ResourceName};

/// What a guest does by a host call. Its principal is the plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostAct {
    /// Read a value of a bucket, or whether it is there.
    ReadValue,
    /// Write a value of a bucket.
    WriteValue,
    /// Delete a value of a bucket.
    DeleteValue,
    /// List the keys of a bucket.
    ListValues,
    /// Read an object of a container, or what is known of it.
    ReadObject,
    /// Write an object of a container; make the container, for which the name is empty.
    WriteObject,
    /// Delete an object of a container; all of them or the container, for which the name is empty.
    DeleteObject,
    /// List the objects of a container.
    ListObjects,
    /// Read in the plugin's directory.
    ReadFile,
    /// Change something in the plugin's directory.
    WriteFile,
    /// Take a secret's value.
    UseSecret,
    /// Send a request out of the host.
    SendRequest,
    /// Call another plugin of the tenant.
    CallPlugin,
    /// Put a message into a queue.
    PostMessage,
    /// Begin a run of a workflow.
    BeginRun,
    /// Send a run a signal.
    SignalRun,
    /// Ask a run to take back what it did, and end.
    CancelRun,
    /// Look how a run stands and what it came to, or which one was begun under a key.
    InspectRun,
    /// Seal a value of a field of personal data.
    SealField,
    /// Make a token for a value of a field of personal data.
    TokeniseField,
    /// Open a sealed value of a field of personal data, or what a token stands for.
    OpenField,
}

impl HostAct {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::ReadValue,
        Self::WriteValue,
        Self::DeleteValue,
        Self::ListValues,
        Self::ReadObject,
        Self::WriteObject,
        Self::DeleteObject,
        Self::ListObjects,
        Self::ReadFile,
        Self::WriteFile,
        Self::UseSecret,
        Self::SendRequest,
        Self::CallPlugin,
        Self::PostMessage,
        Self::BeginRun,
        Self::SignalRun,
        Self::CancelRun,
        Self::InspectRun,
        Self::SealField,
        Self::TokeniseField,
        Self::OpenField,
    ];

    /// The word in policies, decisions and the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadValue => "read-value",
            Self::WriteValue => "write-value",
            Self::DeleteValue => "delete-value",
            Self::ListValues => "list-values",
            Self::ReadObject => "read-object",
            Self::WriteObject => "write-object",
            Self::DeleteObject => "delete-object",
            Self::ListObjects => "list-objects",
            Self::ReadFile => "read-file",
            Self::WriteFile => "write-file",
            Self::UseSecret => "use-secret",
            Self::SendRequest => "send-request",
            Self::CallPlugin => "call-plugin",
            Self::PostMessage => "post-message",
            Self::BeginRun => "begin-run",
            Self::SignalRun => "signal-run",
            Self::CancelRun => "cancel-run",
            Self::InspectRun => "inspect-run",
            Self::SealField => "seal-field",
            Self::TokeniseField => "tokenise-field",
            Self::OpenField => "open-field",
        }
    }

    /// The act of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|act| act.as_str() == word)
    }
}

/// One host call, before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostCall<'a> {
    /// What is done.
    pub act: HostAct,
    /// To what.
    pub on: On<'a>,
}

/// What a host call is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On<'a> {
    /// A value of a bucket of the plugin's own.
    Value {
        /// Which bucket.
        bucket: &'a ResourceName,
        /// Under which key; empty for all of them.
        key: &'a str,
    },
    /// An object of a container of the plugin's own.
    Object {
        /// Which container.
        container: &'a ResourceName,
        /// Its name; empty for all of them.
        name: &'a str,
    },
    /// The plugin's directory.
    Directory,
    /// A secret of the tenant.
    Secret(&'a ResourceName),
    /// A host outside.
    Outside {
        /// `https` or `http`.
        scheme: &'a str,
        /// Name or address, in small letters, without brackets.
        host: &'a str,
        /// Its port, also when it is the usual one.
        port: u16,
        /// Of the request.
        method: &'a str,
        /// Of the request, without its query.
        path: &'a str,
    },
    /// Another plugin of the tenant.
    Plugin {
        /// Which.
        plugin: &'a PluginName,
        /// Of the request.
        method: &'a str,
        /// Of the request, without its query.
        path: &'a str,
    },
    /// A queue of the tenant.
    Queue(&'a ResourceName),
    /// A workflow of the tenant.
    Workflow {
        /// Of which plugin.
        plugin: &'a PluginName,
        /// Its name.
        workflow: &'a str,
    },
    /// A field of personal data.
    Field(&'a str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_act_has_a_word_of_its_own_that_no_other_action_has() {
        for act in HostAct::ALL {
            assert_eq!(HostAct::of_word(act.as_str()), Some(act));
            assert!(!crate::proof::act::ACTIONS.contains(&act.as_str()), "{act:?}");
        }
    }
}
