//! A key server of our own: keys in memory, in any state and of any kind, which it gives as a test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use blkseal::provider::kmip::messages::{Operation, tag};
use blkseal::provider::kmip::ttlv::{self, Encoder, Structure};

use super::{FakeServer, Pki};

/// Of the answers of a store, beside those of `message`.
pub const NOT_FOUND: u32 = 0x01;
pub const GENERAL_FAILURE: u32 = 0x100;
const WRONG_STATE: u32 = 0x43;

/// A key, and what is told of it.
#[derive(Clone, Debug)]
pub struct StoredKey {
    pub id: String,
    pub state: u32,
    /// Seconds since 1970.
    pub created: i64,
    pub group: Option<String>,
    pub name: Option<String>,
    pub bits: i32,
    /// The reason for which nobody gets to know anything of it.
    pub refused: Option<u32>,
}

impl StoredKey {
    /// An active key of the default group, as blkseal makes them.
    pub fn new(id: &str, created: i64) -> Self {
        Self {
            id: id.into(),
            state: 2,
            created,
            group: Some("blkseal".into()),
            name: Some(format!("blkseal-{id}")),
            bits: 256,
            refused: None,
        }
    }
}

/// What a server has, and how it deviates.
pub struct Contents {
    pub keys: Vec<StoredKey>,
    /// The operations that it refuses, by their numbers, and the reason.
    pub refuses: BTreeMap<u32, u32>,
    /// Whether Locate gives the keys of the group that was asked for only.
    pub filters: bool,
    /// Whether it tells names and groups.
    pub tells_names: bool,
    /// Whether it does several things that one message asks for.
    pub batches: bool,
    /// Whether it makes keys active at once.
    pub activates: bool,
    /// How many ids Locate gives at most, the oldest first.
    pub located: usize,
    /// The time by its clock, in seconds since 1970.
    pub now: i64,
    /// How long it takes for each answer.
    pub pause: Duration,
    /// Whether it answers nothing, for now.
    pub hangs: bool,
    /// How many messages came in.
    pub messages: usize,
    /// What it was asked for, in order.
    pub asked: Vec<Operation>,
}

/// A server's contents, shared by all that serve them.
#[derive(Clone)]
pub struct Store(Arc<Mutex<Contents>>);

impl Store {
    /// One that does as the standard says.
    pub fn new(keys: Vec<StoredKey>) -> Self {
        Self(Arc::new(Mutex::new(Contents {
            keys,
            refuses: BTreeMap::new(),
            filters: true,
            tells_names: true,
            batches: true,
            activates: false,
            located: usize::MAX,
            now: 1_700_000_000,
            pause: Duration::ZERO,
            hangs: false,
            messages: 0,
            asked: Vec::new(),
        })))
    }

    /// What it has.
    pub fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap()
    }

    /// A server that gives it.
    pub fn serve(&self, pki: &Pki) -> FakeServer {
        let store = self.clone();
        FakeServer::before(pki, 0, move |request, _| {
            store.contents().messages += 1;
            let pause = store.contents().pause;
            std::thread::sleep(pause);
            while store.contents().hangs {
                std::thread::sleep(Duration::from_millis(5));
            }
            Some(store.contents().answer(request))
        })
    }
}

/// What fills the payload of an answer, or the reason of a refusal.
type Outcome = Result<Box<dyn FnMut(&mut Encoder)>, u32>;

impl Contents {
    /// Has every operation on keys refused for `reason`, or none.
    pub fn refuse_all(&mut self, reason: Option<u32>) {
        let of_keys = Operation::ALL
            .into_iter()
            .filter(|operation| !matches!(operation, Operation::Query | Operation::DiscoverVersions));
        self.refuses = of_keys.filter_map(|operation| Some((operation.code(), reason?))).collect();
    }

    fn answer(&mut self, request: &[u8]) -> Vec<u8> {
        let message = ttlv::parse(request).unwrap().structure().unwrap();
        let items: Vec<_> = message.all(tag::BATCH_ITEM).map(|item| item.structure().unwrap()).collect();
        let mut encoder = Encoder::new();
        encoder.structure(tag::RESPONSE_MESSAGE, |message| {
            let whole = items.len() == 1 || self.batches;
            message.structure(tag::RESPONSE_HEADER, |header| {
                header.structure(tag::PROTOCOL_VERSION, |version| {
                    version.integer(tag::PROTOCOL_VERSION_MAJOR, 1);
                    version.integer(tag::PROTOCOL_VERSION_MINOR, 4);
                });
                header.integer(tag::BATCH_COUNT, if whole { items.len() as i32 } else { 1 });
            });
            match whole {
                true => items.iter().for_each(|item| self.answer_item(message, item)),
                false => message.structure(tag::BATCH_ITEM, |item| refuse(item, 0x04)),
            }
        });
        encoder.finish().to_vec()
    }

    fn answer_item(&mut self, message: &mut Encoder, item: &Structure<'_>) {
        let code = item.get(tag::OPERATION).unwrap().enumeration().unwrap();
        let operation = Operation::from_code(code).unwrap();
        self.asked.push(operation);
        message.structure(tag::BATCH_ITEM, |answer| {
            answer.enumeration(tag::OPERATION, code);
            if let Some(id) = item.find(tag::UNIQUE_BATCH_ITEM_ID) {
                answer.bytes(tag::UNIQUE_BATCH_ITEM_ID, id.bytes().unwrap());
            }
            let payload = item.get(tag::REQUEST_PAYLOAD).unwrap().structure().unwrap();
            let refused = self.refuses.get(&code).copied().map_or(Ok(()), Err);
            match refused.and_then(|()| self.carry_out(operation, &payload)) {
                Ok(fill) => {
                    answer.enumeration(tag::RESULT_STATUS, 0);
                    answer.structure(tag::RESPONSE_PAYLOAD, fill);
                }
                Err(reason) => refuse(answer, reason),
            }
        });
    }

    fn carry_out(&mut self, operation: Operation, payload: &Structure<'_>) -> Outcome {
        match operation {
            Operation::DiscoverVersions => Ok(Box::new(|answer| {
                answer.structure(tag::PROTOCOL_VERSION, |version| {
                    version.integer(tag::PROTOCOL_VERSION_MAJOR, 1);
                    version.integer(tag::PROTOCOL_VERSION_MINOR, 4);
                });
            })),
            Operation::Query => Ok(Box::new(|answer| {
                Operation::ALL.iter().for_each(|known| answer.enumeration(tag::OPERATION, known.code()));
            })),
            Operation::Locate => {
                let group = attribute_text(payload, "Object Group");
                let fits = |key: &&StoredKey| !self.filters || group.is_none() || key.group == group;
                let ids: Vec<String> =
                    self.keys.iter().filter(fits).take(self.located).map(|key| key.id.clone()).collect();
                Ok(Box::new(move |answer| {
                    ids.iter().for_each(|id| answer.text(tag::UNIQUE_IDENTIFIER, id));
                }))
            }
            Operation::Create => {
                let template = payload.get(tag::TEMPLATE_ATTRIBUTE).unwrap().structure().unwrap();
                let id = (self.keys.len() + 1).to_string();
                self.keys.push(StoredKey {
                    state: if self.activates { 2 } else { 1 },
                    group: attribute_text(&template, "Object Group"),
                    name: attribute_name(&template),
                    ..StoredKey::new(&id, self.now)
                });
                Ok(Box::new(move |answer| answer.text(tag::UNIQUE_IDENTIFIER, &id)))
            }
            _ => self.with_key(operation, payload),
        }
    }

    fn with_key(&mut self, operation: Operation, payload: &Structure<'_>) -> Outcome {
        let id = payload.get(tag::UNIQUE_IDENTIFIER).unwrap().text().unwrap().to_owned();
        let key = self.keys.iter_mut().find(|key| key.id == id).ok_or(NOT_FOUND)?;
        if let Some(reason) = key.refused {
            return Err(reason);
        }
        match operation {
            Operation::Activate if key.state != 1 => return Err(WRONG_STATE),
            Operation::Activate => key.state = 2,
            Operation::Destroy if key.state == 2 => return Err(WRONG_STATE),
            Operation::Destroy => key.state = 5,
            Operation::Revoke => {
                let reason = payload.get(tag::REVOCATION_REASON).unwrap().structure().unwrap();
                let compromised = reason.get(tag::REVOCATION_REASON_CODE).unwrap().enumeration() == Ok(2);
                // As strict servers have it (KMIP 1.4, 4.20).
                if compromised && payload.find(tag::COMPROMISE_OCCURRENCE_DATE).is_none() {
                    return Err(0x06);
                }
                key.state = if compromised { 4 } else { 3 };
            }
            _ => {}
        }
        let (key, tells_names) = (key.clone(), self.tells_names);
        Ok(Box::new(move |answer| match operation {
            Operation::Get => give(answer, &key),
            Operation::GetAttributes => tell(answer, &key, tells_names),
            _ => answer.text(tag::UNIQUE_IDENTIFIER, &key.id),
        }))
    }
}

fn refuse(answer: &mut Encoder, reason: u32) {
    answer.enumeration(tag::RESULT_STATUS, 1);
    answer.enumeration(tag::RESULT_REASON, reason);
}

/// The key's bytes are those of its id, again and again.
fn give(answer: &mut Encoder, key: &StoredKey) {
    let material: Vec<u8> = key.id.bytes().cycle().take(key.bits as usize / 8).collect();
    answer.enumeration(tag::OBJECT_TYPE, 2);
    answer.text(tag::UNIQUE_IDENTIFIER, &key.id);
    answer.structure(tag::SYMMETRIC_KEY, |symmetric| {
        symmetric.structure(tag::KEY_BLOCK, |block| {
            block.enumeration(tag::KEY_FORMAT_TYPE, 1);
            block.structure(tag::KEY_VALUE, |value| value.bytes(tag::KEY_MATERIAL, &material));
            block.enumeration(tag::CRYPTOGRAPHIC_ALGORITHM, 3);
            block.integer(tag::CRYPTOGRAPHIC_LENGTH, key.bits);
        });
    });
}

fn tell(answer: &mut Encoder, key: &StoredKey, names: bool) {
    let mut attribute = |name: &str, value: &dyn Fn(&mut Encoder)| {
        answer.structure(tag::ATTRIBUTE, |attribute| {
            attribute.text(tag::ATTRIBUTE_NAME, name);
            value(attribute);
        });
    };
    attribute("State", &|value| value.enumeration(tag::ATTRIBUTE_VALUE, key.state));
    attribute("Initial Date", &|value| value.date_time(tag::ATTRIBUTE_VALUE, key.created));
    attribute("Cryptographic Algorithm", &|value| value.enumeration(tag::ATTRIBUTE_VALUE, 3));
    attribute("Cryptographic Length", &|value| value.integer(tag::ATTRIBUTE_VALUE, key.bits));
    if let Some(group) = key.group.as_ref().filter(|_| names) {
        attribute("Object Group", &|value| value.text(tag::ATTRIBUTE_VALUE, group));
    }
    if let Some(name) = key.name.as_ref().filter(|_| names) {
        attribute("Name", &|value| {
            value.structure(tag::ATTRIBUTE_VALUE, |value| {
                value.text(tag::NAME_VALUE, name);
                value.enumeration(tag::NAME_TYPE, 1);
            });
        });
    }
    answer.text(tag::UNIQUE_IDENTIFIER, &key.id);
}

fn attribute_value<'a>(structure: &Structure<'a>, name: &str) -> Option<ttlv::Item<'a>> {
    let named = |item: ttlv::Item<'a>| {
        let attribute = item.structure().ok()?;
        let is_it = attribute.get(tag::ATTRIBUTE_NAME).ok()?.text() == Ok(name);
        attribute.get(tag::ATTRIBUTE_VALUE).ok().filter(|_| is_it)
    };
    structure.all(tag::ATTRIBUTE).find_map(named)
}

fn attribute_text(structure: &Structure<'_>, name: &str) -> Option<String> {
    Some(attribute_value(structure, name)?.text().ok()?.to_owned())
}

fn attribute_name(structure: &Structure<'_>) -> Option<String> {
    let name = attribute_value(structure, "Name")?.structure().ok()?;
    Some(name.get(tag::NAME_VALUE).ok()?.text().ok()?.to_owned())
}
