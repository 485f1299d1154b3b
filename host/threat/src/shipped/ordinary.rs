//! Ordinary days of a tenant of some five hundred people: what its log says when nobody attacks, with what goes wrong on such
//! days. People mistype and forget passwords, click where they may not, clean up, deploy what traps and roll it back; plugins run
//! into budgets and ask for places that nobody granted yet; keys rotate and backups come and go.
//!
//! Made up from rates that are written here, not recorded from anybody. The same seed gives the same day. Must never be bent
//! to what the rules look for: some of this lies near their thresholds and, on some days, beyond.

use ringfence_audit::codes;
use serde_json::{Value, json};

/// People of the tenant; the first three administer it, the first forty develop.
const PEOPLE: u64 = 500;
const ADMINS: u64 = 3;
const DEVELOPERS: u64 = 40;
/// Services that sign in every hour.
const SERVICES: u64 = 20;
const PLUGINS: u64 = 12;
const DAY_S: u64 = 86_400;
/// When people work: from eight, for ten hours.
const MORNING_S: u64 = 8 * 3_600;
const WORK_S: u64 = 10 * 3_600;
/// One in how many.
const CERTAIN: u64 = 10_000;

/// One entry of a day.
pub struct Entry {
    /// Seconds since the first day began.
    pub at_s: u64,
    /// From [`codes`].
    pub code: &'static str,
    /// The action's word.
    pub action: &'static str,
    /// Who, below the tenant's name; `anonymous` and `ringfence` as they are.
    pub who: String,
    /// On what, below the tenant.
    pub on: String,
    /// From where.
    pub source: Option<[u8; 4]>,
    /// The rest.
    pub details: Value,
}

/// The entries of a day, the first being 0, in their order.
pub fn day(seed: u64, number: u64) -> Vec<Entry> {
    let dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03);
    let mut day = Day { dice, start_s: number * DAY_S, entries: Vec::new() };
    day.people_sign_in();
    day.services_sign_in();
    day.refused_acts();
    day.deletions();
    day.plugins_fail();
    day.personal_data();
    day.keys_and_backups();
    day.administration();
    day.entries.sort_by_key(|entry| entry.at_s);
    day.entries
}

struct Day {
    /// The state of splitmix64 (Steele et al. 2014).
    dice: u64,
    start_s: u64,
    entries: Vec<Entry>,
}

impl Day {
    fn below(&mut self, end: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.dice;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % end
    }

    /// Whether something happens that happens so often in ten thousand.
    fn happens(&mut self, often: u64) -> bool {
        self.below(CERTAIN) < often
    }

    /// A moment of the working day, in seconds.
    fn moment(&mut self) -> u64 {
        MORNING_S + self.below(WORK_S)
    }

    /// One, and one more as long as it goes on, which it does so often in ten thousand; `most` at most.
    fn times(&mut self, often: u64, most: u64) -> u64 {
        let mut count = 1;
        while count < most && self.happens(often) {
            count += 1;
        }
        count
    }

    fn put(&mut self, at_s: u64, code: &'static str, action: &'static str, who: &str, on: &str) {
        self.put_with(at_s, (code, action), (who, on), None, json!({}));
    }

    fn put_with(
        &mut self,
        at_s: u64,
        (code, action): (&'static str, &'static str),
        (who, on): (&str, &str),
        source: Option<[u8; 4]>,
        details: Value,
    ) {
        let (who, on) = (who.to_owned(), on.to_owned());
        self.entries.push(Entry { at_s: self.start_s + at_s, code, action, who, on, source, details });
    }

    /// Where a person sits: two in five in one of three offices, the others at home.
    fn source(person: u64) -> [u8; 4] {
        let byte = |number: u64| u8::try_from(number % 256).unwrap_or(0);
        if person % 5 < 2 { [203, 0, 113, byte(person % 3 + 1)] } else { [198, 18, byte(person / 256), byte(person)] }
    }

    /// In the morning and twice later, for those who are there. One in 67 is mistyped; of those who mistype, one in four
    /// does not know better and goes on.
    fn people_sign_in(&mut self) {
        for person in 0..PEOPLE {
            if self.happens(1_500) {
                continue;
            }
            let arrival = MORNING_S + self.below(7_200);
            for mut at_s in [arrival, self.moment(), self.moment()] {
                let source = Some(Self::source(person));
                let wrong = if self.happens(150) { self.times(2_500, 6) } else { 0 };
                for _ in 0..wrong {
                    let act = (codes::SIGN_IN_REFUSED, "authenticate");
                    self.put_with(at_s, act, ("anonymous", ""), source, json!({}));
                    at_s += 8 + self.below(25);
                }
                let who = format!("p{person}");
                self.put_with(at_s, (codes::SIGNED_IN, "authenticate"), (&who, ""), source, json!({}));
            }
        }
    }

    /// Every hour. On one day in five one of them has a key that has expired, and tries every quarter of an hour.
    fn services_sign_in(&mut self) {
        for service in 0..SERVICES {
            let minute_s = self.below(3_600);
            for hour in 0..24 {
                let source = Some([198, 19, 0, u8::try_from(service).unwrap_or(0)]);
                let who = format!("s{service}");
                let act = (codes::SIGNED_IN, "authenticate");
                self.put_with(hour * 3_600 + minute_s, act, (&who, ""), source, json!({}));
            }
        }
        if self.happens(2_000) {
            for quarter in 0..96 {
                let act = (codes::SIGN_IN_REFUSED, "authenticate");
                self.put_with(quarter * 900, act, ("anonymous", ""), Some([198, 19, 0, 99]), json!({}));
            }
        }
    }

    /// People look where they may not look, and sometimes try to do what they may not do; one in five tries again.
    fn refused_acts(&mut self) {
        for _ in 0..60 {
            let (at_s, who) = (self.moment(), format!("p{}", self.below(PEOPLE)));
            self.put(at_s, codes::ACTION_DENIED, "read-audit", &who, "");
        }
        for _ in 0..12 {
            let (mut at_s, who) = (self.moment(), format!("p{}", self.below(PEOPLE)));
            let plugin = format!("/plugin/a{}", self.below(PLUGINS));
            for _ in 0..self.times(2_000, 5) {
                self.put(at_s, codes::ACTION_DENIED, "deploy-version", &who, &plugin);
                at_s += 20 + self.below(100);
            }
        }
    }

    /// Developers clean up their secrets; keys are revoked, several of them when somebody leaves; a person is forgotten.
    fn deletions(&mut self) {
        for _ in 0..3 {
            let (mut at_s, who) = (self.moment(), format!("p{}", self.below(DEVELOPERS)));
            for number in 0..self.times(4_000, 12) {
                self.put(at_s, codes::SECRET_DELETED, "write-secret", &who, &format!("/secret/s{number}"));
                at_s += 15 + self.below(45);
            }
        }
        let revoked = if self.happens(2_000) { 4 } else { 2 };
        for _ in 0..revoked {
            let (at_s, who) = (self.moment(), format!("p{}", self.below(ADMINS)));
            self.put(at_s, codes::TOKEN_REVOKED, "revoke-token", &who, "");
        }
        if self.happens(5_000) {
            let at_s = self.moment();
            self.put(at_s, codes::SUBJECT_ERASED, "erase-subject", "p0", "/subject/x");
        }
    }

    /// Traps here and there; one day in seven a version that traps for everybody until it is rolled back; budgets that are
    /// reached a few times in a row; places that a new version asks for before anybody granted them.
    fn plugins_fail(&mut self) {
        for _ in 0..15 {
            let (at_s, plugin) = (self.below(DAY_S), format!("/plugin/a{}", self.below(PLUGINS)));
            let act = (codes::INVOCATION_FAILED, "invoke");
            self.put_with(at_s, act, ("s1", &plugin), None, json!({ "code": "trap" }));
        }
        if self.happens(1_400) {
            let (mut at_s, plugin) = (self.moment(), format!("/plugin/a{}", self.below(PLUGINS)));
            let until_s = at_s + 120 + self.below(240);
            self.put(at_s, codes::VERSION_DEPLOYED, "deploy-version", "p5", &plugin);
            while at_s < until_s {
                at_s += 20 + self.below(40);
                let act = (codes::INVOCATION_FAILED, "invoke");
                self.put_with(at_s, act, ("s1", &plugin), None, json!({ "code": "trap" }));
            }
            self.put(at_s, codes::VERSION_ROLLED_BACK, "deploy-version", "p5", &plugin);
        }
        for _ in 0..8 {
            let (mut at_s, plugin) = (self.below(DAY_S - 3_600), format!("/plugin/a{}", self.below(PLUGINS)));
            for _ in 0..self.times(5_000, 12) {
                let act = (codes::INVOCATION_FAILED, "invoke");
                self.put_with(at_s, act, ("s2", &plugin), None, json!({ "code": "budget-cpu" }));
                at_s += 5 + self.below(25);
            }
        }
        for _ in 0..3 {
            let (mut at_s, plugin) = (self.moment(), format!("/plugin/a{}", self.below(PLUGINS)));
            for _ in 0..self.times(3_000, 3) {
                let act = (codes::EGRESS_REFUSED, "invoke");
                self.put_with(at_s, act, ("s3", &plugin), None, json!({ "origin": "https://new.example" }));
                at_s += 1 + self.below(9);
            }
            let (granted_s, admin) = (at_s + 600 + self.below(3_000), format!("p{}", self.below(ADMINS)));
            self.put(granted_s, codes::CAPABILITY_GRANTED, "grant-capability", &admin, &plugin);
        }
    }

    /// Records that people open, a handful at a time; one day in ten somebody exports a list.
    fn personal_data(&mut self) {
        let export = self.happens(1_000);
        for session in 0..41 {
            let is_export = session == 40;
            if is_export && !export {
                continue;
            }
            let mut at_s = self.moment();
            let count = if is_export { 250 } else { 5 + self.below(55) };
            for number in 0..count {
                self.put(at_s, codes::PERSONAL_OPENED, "invoke", "s4", "/plugin/crm");
                at_s += if is_export { u64::from(number.is_multiple_of(4)) } else { 1 + self.below(3) };
            }
        }
        if self.happens(2_000) {
            let mut at_s = self.moment();
            for _ in 0..self.times(3_000, 2) {
                self.put(at_s, codes::PERSONAL_OPEN_REFUSED, "invoke", "s4", "/plugin/a1");
                at_s += 30;
            }
        }
    }

    /// Every night a key rotates and backups come and go; now and then by hand.
    fn keys_and_backups(&mut self) {
        self.put(3 * 3_600, codes::KEY_ROTATED, "rotate-keys", "ringfence", "");
        self.put(3 * 3_600 + 60, codes::BACKUP_CREATED, "write-backup", "ringfence", "/backup/new");
        for old in 0..2 {
            self.put(
                3 * 3_600 + 120 + old,
                codes::BACKUP_DELETED,
                "write-backup",
                "ringfence",
                &format!("/backup/{old}"),
            );
        }
        if self.happens(500) {
            let at_s = self.moment();
            self.put(at_s, codes::BACKUP_DELETED, "write-backup", "p0", "/backup/by-hand");
        }
        if self.happens(200) {
            let at_s = self.moment();
            self.put(at_s, codes::KEY_DISABLED, "disable-keys", "p0", "");
            self.put(at_s + 300, codes::KEY_ENABLED, "disable-keys", "p0", "");
        }
        if self.happens(100) {
            let at_s = self.moment();
            self.put(at_s, codes::RECOVERY_KEY_TAKEN, "take-recovery-key", "p1", "");
        }
        if self.happens(200) {
            let at_s = self.below(DAY_S);
            self.put(at_s, codes::OUTCOME_UNKNOWN, "outcome-unknown", "ringfence", "");
        }
        if self.happens(100) {
            let (at_s, who) = (self.moment(), format!("p{}", self.below(PEOPLE)));
            self.put(at_s, codes::TENANT_ISOLATION, "read-plugin", &who, "/plugin/elsewhere");
        }
    }

    /// What people do all day, and what the host counts.
    fn administration(&mut self) {
        const DAILY: [(u64, &str, &str, u64); 8] = [
            (25, codes::VERSION_PUSHED, "push-version", DEVELOPERS),
            (12, codes::VERSION_DEPLOYED, "deploy-version", DEVELOPERS),
            (10, codes::CONFIG_WRITTEN, "write-config", DEVELOPERS),
            (15, codes::SECRET_WRITTEN, "write-secret", DEVELOPERS),
            (150, codes::DATA_READ, "read-audit", DEVELOPERS),
            (3, codes::CAPABILITY_GRANTED, "grant-capability", ADMINS),
            (2, codes::TOKEN_CREATED, "create-token", ADMINS),
            (2, codes::PERSON_INVITED, "invite-person", ADMINS),
        ];
        for (count, code, action, among) in DAILY {
            for _ in 0..count {
                let (at_s, who) = (self.moment(), format!("p{}", self.below(among)));
                let plugin = format!("/plugin/a{}", self.below(PLUGINS));
                self.put(at_s, code, action, &who, &plugin);
            }
        }
        if self.happens(4_000) {
            let (at_s, who) = (self.moment(), format!("p{}", self.below(ADMINS)));
            self.put(at_s, codes::POLICY_WRITTEN, "write-policy", &who, "");
        }
        if self.happens(500) {
            let (at_s, who) = (self.moment(), format!("p{}", self.below(ADMINS)));
            self.put(at_s, codes::POLICY_WRITTEN, "write-policy", &who, "");
            self.put(at_s + 240, codes::CAPABILITY_GRANTED, "grant-capability", &who, "/plugin/a0");
        }
        if self.happens(300) {
            let (at_s, who) = (self.moment(), format!("p{}", self.below(ADMINS)));
            self.put(at_s, codes::SIGN_IN_CHANGED, "write-policy", &who, "");
        }
        for five_minutes in 0..DAY_S / 300 {
            self.put(five_minutes * 300, codes::INVOCATIONS, "invoke", "ringfence", "/plugin/a0");
        }
    }
}
