//! Every hard cap of the host, named, with its unit last. Budgets and quotas may be lower, never higher.

/// Most bytes of one uploaded component (64 MiB).
pub const COMPONENT_BYTES_MAX: u64 = 64 << 20;
/// Most invocations one instance may serve, when a plugin asks for more than one.
pub const INSTANCE_INVOCATIONS_COUNT_MAX: u32 = 100_000;
/// Most bytes of a `plugin.toml`.
pub const MANIFEST_BYTES_MAX: usize = 16 << 10;
/// Most bytes of a JSON body on the control plane.
pub const CONTROL_BODY_BYTES_MAX: usize = 256 << 10;
/// Most bytes of a request body on the data plane.
pub const REQUEST_BODY_BYTES_MAX: u64 = 32 << 20;
/// Bytes of a request body that are waited for before the call gets its turn, or all of a smaller one; the rest streams.
pub const REQUEST_GATHERED_BYTES_MAX: u64 = 16 << 10;
/// Longest wait for those of a body whose length is said, in milliseconds.
pub const REQUEST_GATHER_MS_MAX: u64 = 30_000;
/// Longest wait for those of a body whose length is not said, whose sender may want to hear something first, in
/// milliseconds. It goes on with what is there.
pub const REQUEST_GATHER_UNSAID_MS_MAX: u64 = 250;
/// Most bytes of a request head on either port.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// Most header fields of a request on either port.
pub const HEADERS_COUNT_MAX: usize = 100;
/// Longest wait for a complete request head, in milliseconds.
pub const HEAD_TIME_MS_MAX: u64 = 10_000;
/// Longest silence while a body is being received, in milliseconds.
pub const BODY_IDLE_MS_MAX: u64 = 15_000;
/// Most connections open on one port.
pub const CONNECTIONS_COUNT_MAX: usize = 4_096;
/// Most connections from one source (an IPv4 address, or an IPv6 network of 64 bits) on one port.
pub const CONNECTIONS_PER_SOURCE_COUNT_MAX: usize = 1_024;
/// Longest wait for a peer to take something of what waits for it on a connection, in milliseconds.
pub const WRITE_STALL_MS_MAX: u64 = 15_000;
/// Most bytes that the kernel keeps unsent for one connection before it takes no more.
pub const UNSENT_BYTES_MAX: u32 = 128 << 10;
/// Longest wait for open requests to finish after SIGTERM, in milliseconds.
pub const DRAIN_MS_MAX: u64 = 10_000;
/// Most guests that run at the same time, on as many cores. Each is a bit of a word of the scheduler's, with those that stand in.
pub const WORKERS_COUNT_MAX: usize = 96;
/// Most invocations one tenant may have waiting for a slot.
pub const TENANT_QUEUE_COUNT_MAX: usize = 64;
/// Longest wait for a slot, in milliseconds.
pub const SLOT_WAIT_MS_MAX: u64 = 5_000;
/// How long an invocation may have waited for its client in all, before it gives way to who waits for its slot, in
/// milliseconds. Less than the wait for a slot, so that nobody is sent away for a slot that nobody uses.
pub const CLIENT_WAIT_MS_MAX: u64 = 2_000;
/// Longest wait for the host's memory, of an invocation whose tenant is within its share of it, in milliseconds.
pub const MEMORY_WAIT_MS_MAX: u64 = 2_000;
/// How much of that passes before an invocation of a tenant above its share is ended for it, in milliseconds.
pub const MEMORY_GRACE_MS: u64 = 200;
/// Deepest call of a plugin by a plugin: an invocation that no plugin called is at 0.
pub const PLUGIN_CALL_DEPTH_MAX: u32 = 4;
/// Most calls of plugins by plugins below one invocation that no plugin called, in all.
pub const PLUGIN_CALLS_COUNT_MAX: u32 = 16;
/// Longest row of messages of which each is sent while the one before it is handled: a message that no message led to is
/// the first.
pub const MESSAGE_DEPTH_MAX: u32 = 16;
/// Most bytes of one key of a guest's key-value bucket.
pub const KV_KEY_BYTES_MAX: usize = 1_024;
/// Most bytes of one value of a guest's key-value bucket.
pub const KV_VALUE_BYTES_MAX: usize = 8 << 20;
/// Most bytes of the name of a guest's object.
pub const BLOB_NAME_BYTES_MAX: usize = 1_024;
/// Most bytes of an object that a guest may ask for in one piece; longer ones are read as a stream.
pub const BLOB_WHOLE_BYTES_MAX: u64 = 16 << 20;
/// Most objects that one invocation may have open for reading and writing together.
pub const BLOB_STREAMS_COUNT_MAX: usize = 16;
/// Most bytes of a secret.
pub const SECRET_BYTES_MAX: usize = 64 << 10;
/// Most bytes of one guest log line; longer ones are cut and say so.
pub const LOG_LINE_BYTES_MAX: usize = 4 << 10;
/// Most guest log lines kept for a plugin; older ones go first.
pub const LOG_LINES_KEPT_MAX: usize = 2_000;
/// Most address space of a compile child, on the largest machine (bytes).
pub const COMPILE_MEMORY_BYTES_MAX: u64 = 6 << 30;
/// Most CPU time of a compile child (seconds).
pub const COMPILE_CPU_SECONDS_MAX: u64 = 120;
/// Longest wait for a compile child (milliseconds).
pub const COMPILE_TIME_MS_MAX: u64 = 180_000;
/// Most bytes of native code a compile child may answer with.
pub const NATIVE_BYTES_MAX: u64 = 512 << 20;
/// Deepest nesting of components inside components.
pub const COMPONENT_DEPTH_MAX: usize = 12;
/// Most parts (modules, components, instances) of one component, at all depths together.
pub const COMPONENT_PARTS_COUNT_MAX: usize = 2_000;
/// Longest time until an open answer feels what is held against whom it is for, in milliseconds.
pub const STANDING_LOOK_MS_MAX: u64 = 1_000;
/// Lifetime of an access token, in seconds.
pub const ACCESS_TOKEN_SECONDS: i64 = 300;
/// Most entries one page of a list may hold.
pub const PAGE_COUNT_MAX: usize = 1_000;
/// Most bytes of a tenant's policy text.
pub const POLICY_BYTES_MAX: usize = 2 << 20;
/// Most bytes of a request that carries a policy text, which JSON makes longer.
pub const POLICY_BODY_BYTES_MAX: usize = 4 << 20;
/// Most statements of a tenant's policy.
pub const POLICY_STATEMENTS_COUNT_MAX: usize = 10_000;
/// Most statements of a tenant's policy that can apply to one and the same request: what one decision may cost.
pub const POLICY_APPLICABLE_COUNT_MAX: usize = 256;
/// Most distinct questions to one tenant that are remembered for trying a changed policy on.
pub const POLICY_RECENT_COUNT_MAX: usize = 2_048;
/// Most distinct host calls of a tenant's plugins that are remembered for the same.
pub const POLICY_RECENT_HOST_CALLS_COUNT_MAX: usize = 1_024;
/// Most decisions on host calls kept for those of a tenant that come again.
pub const POLICY_CACHED_HOST_CALLS_COUNT_MAX: usize = 2_048;
/// Most bytes of a tenant's labels, as JSON.
pub const POLICY_LABELS_BYTES_MAX: usize = 1 << 20;
/// Most principals, plugins, secrets and fields each that a tenant labels.
pub const POLICY_LABELLED_COUNT_MAX: usize = 2_048;
/// Most labels of one sort on one of them.
pub const POLICY_LABELS_COUNT_MAX: usize = 32;
/// Deepest nesting of brackets in a policy statement.
pub const POLICY_DEPTH_MAX: usize = 32;
/// Most operators of one policy statement.
pub const POLICY_OPERATORS_COUNT_MAX: usize = 256;
/// Most decisions kept for questions that come again, in all.
pub const POLICY_CACHED_COUNT_MAX: usize = 16_384;
/// Most of them that one tenant's questions take.
pub const POLICY_CACHED_PER_TENANT_COUNT_MAX: usize = 2_048;
/// Most live API keys of one tenant, and of the host's operators.
pub const KEYS_LIVE_COUNT_MAX: usize = 256;
/// Most plugins that the scope of an API key names.
pub const TOKEN_SCOPE_PLUGINS_COUNT_MAX: usize = 64;
/// Most API keys of one tenant that are remembered, revoked and expired ones included; the oldest dead ones go first.
pub const KEYS_KEPT_COUNT_MAX: usize = 512;
/// Most people of one tenant, and most operators.
pub const PEOPLE_COUNT_MAX: usize = 1_024;
/// How long an invitation can be used, in hours.
pub const INVITATION_HOURS: i64 = 72;
/// Fewest characters of a password.
pub const PASSWORD_CHARS_MIN: usize = 12;
/// Most bytes of a password.
pub const PASSWORD_BYTES_MAX: usize = 256;
/// Most wrong one-time codes of a person before none is taken for a while.
pub const WRONG_CODES_COUNT_MAX: u32 = 10;
/// How long that while is after the last wrong one, in seconds.
pub const WRONG_CODES_SECONDS: u64 = 900;
/// Most risk adjustments, and most open findings, of one principal.
pub const RISKS_PER_PRINCIPAL_COUNT_MAX: usize = 32;
/// Most principals of one tenant, and most operators, about whom risk, networks and devices are remembered.
pub const ABOUT_COUNT_MAX: usize = 4_096;
/// Longest life of a risk adjustment, in hours.
pub const RISK_HOURS_MAX: i64 = 90 * 24;
/// Most networks remembered of one principal.
pub const NETWORKS_PER_PRINCIPAL_COUNT_MAX: usize = 64;
/// Most devices of one principal.
pub const DEVICES_PER_PRINCIPAL_COUNT_MAX: usize = 16;
/// Most bytes of evidence about a device.
pub const POSTURE_BYTES_MAX: usize = 16 << 10;
/// For how long evidence about a device counts at most, in seconds.
pub const POSTURE_SECONDS_MAX: i64 = 24 * 3_600;
/// Most roots of authenticators a tenant trusts.
pub const ATTESTATION_ROOTS_COUNT_MAX: usize = 16;
/// Most models of authenticators below one root.
pub const ATTESTATION_MODELS_COUNT_MAX: usize = 256;
/// How long the certificate of a workload is good, in seconds.
pub const SVID_SECONDS: i64 = 3_600;
/// Most certificates of workloads that are remembered; beyond it they are made for every request.
pub const SVIDS_KEPT_COUNT_MAX: usize = 10_000;
/// Most passkeys of one person.
pub const PASSKEYS_PER_PERSON_COUNT_MAX: usize = 16;
/// Most identity providers a tenant trusts.
pub const PROVIDERS_COUNT_MAX: usize = 16;
/// Most claims of one provider that stand for a role.
pub const PROVIDER_ROLES_COUNT_MAX: usize = 64;
/// Most providers whose documents are remembered; the one asked longest ago gives way.
pub const PROVIDERS_KNOWN_COUNT_MAX: usize = 256;
/// How long a ceremony of a passkey may take, in seconds.
pub const CEREMONY_SECONDS: u64 = 180;
/// Most ceremonies under way from one source; the oldest of them gives way.
pub const CEREMONIES_PER_SOURCE_COUNT_MAX: usize = 32;
/// Most ceremonies under way; the oldest gives way.
pub const CEREMONIES_COUNT_MAX: usize = 8_192;
/// Most bytes of what an authenticator answers.
pub const PASSKEY_ANSWER_BYTES_MAX: usize = 64 << 10;
/// Most live sessions of one API key or person; the oldest end first.
pub const SESSIONS_PER_KEY_COUNT_MAX: usize = 256;
/// Most verified access tokens remembered.
pub const TOKENS_CACHED_COUNT_MAX: usize = 16_384;
/// Most sessions that fell below the floor of their place and wait to be on the record; and as many whose own records may not
/// be deleted yet.
pub const FALLEN_WAITING_COUNT_MAX: usize = 16_384;
/// Most of them of one place, each with a name; those beyond are told of as one number.
pub const FALLEN_OF_PLACE_COUNT_MAX: usize = 4_096;
/// Most bytes of an access token or another credential.
pub const CREDENTIAL_BYTES_MAX: usize = 4 << 10;
/// Most sign-ins whose secret is being hashed at the same time (19 MiB each, of a password).
pub const SIGN_IN_PARALLEL_COUNT_MAX: usize = 2;
/// Most sign-ins with keys under way at the same time, whose hashes cost a hundredth of a password's and wait for none of them.
pub const SIGN_IN_KEYS_COUNT_MAX: usize = 1_024;
/// Most sign-ins from one source at the same time, waiting ones included. An IPv6 network of 48 bits is one here, but for names
/// that signed in from their own 64 bits of it before.
pub const SIGN_IN_PER_SOURCE_COUNT_MAX: usize = 64;
/// Most sign-ins by password to one tenant at the same time that come from where their names never signed in from.
pub const SIGN_IN_STRANGERS_PER_TENANT_COUNT_MAX: usize = 64;
/// Most of them to all tenants together.
pub const SIGN_IN_STRANGERS_COUNT_MAX: usize = 192;
/// Most of all others with a password at the same time: by who is known where he comes from, with an invitation, or in a session. No
/// tenant has more of these places than are free, so one alone has half of them.
pub const SIGN_IN_KNOWN_COUNT_MAX: usize = 128;
/// Longest wait of a sign-in for its turn, in milliseconds.
pub const SIGN_IN_WAIT_MS_MAX: u64 = 10_000;
/// Most failed sign-ins from one source, or with one key id, before it is slowed down.
pub const SIGN_IN_FAILURES_COUNT_MAX: u32 = 20;
/// How many times as many it takes from one IPv6 network of 48 bits, and how many times sooner one is forgiven there.
pub const SIGN_IN_FAILURES_OF_SITE_TIMES: u64 = 16;
/// How long until one failed sign-in is forgiven, in milliseconds.
pub const SIGN_IN_FORGIVEN_MS: u64 = 3_000;
/// Most sources and key ids whose failed sign-ins are remembered.
pub const SIGN_IN_REMEMBERED_COUNT_MAX: usize = 16_384;
/// How far the time of a proof of possession may be from the host's, in seconds (RFC 9449, section 11.1).
pub const PROOF_AGE_SECONDS_MAX: i64 = 60;
/// How long a server nonce for proofs is given out, in seconds; it is taken for as long again.
pub const NONCE_SECONDS: u64 = 120;
/// Most proofs one key may use while they are remembered (about two minutes).
pub const PROOFS_PER_KEY_COUNT_MAX: usize = 65_536;
/// Most used proofs remembered (about 32 MiB).
pub const PROOFS_KEPT_COUNT_MAX: usize = 524_288;
/// Most certificates of a chain that a client may show.
pub const CERTIFICATES_SHOWN_COUNT_MAX: usize = 6;
