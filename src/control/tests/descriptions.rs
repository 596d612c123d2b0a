//! The `.varlink` files and the Rust types describe the same messages.

use serde_json::{Map, Value, json};
use zlink::idl::{Field, Interface as Idl, Parameter, Type};

use crate::control::worker::{GetBacking, GetReport, Serve, WorkerCalls};
use crate::control::{
    Adopt, Close, Create, DaemonCalls, Erase, Events, FailureKind, Forget, GetVersion, Interface,
    KekActivate, KekCreate, KekDestroy, KekList, KekRevoke, KekShow, List, Method, Open, OpenTarget, Ping,
    ProviderAdd, ProviderAddKmip, ProviderCheck, ProviderList, ProviderLock, ProviderMeet, ProviderRemove,
    ProviderReseal, ProviderSet, ProviderSetDefault, ProviderUnlock, RecoveryAdd, RecoveryRemove, Rekey,
    Release, Status,
};

/// A value of every field that the description names.
fn object<'a>(idl: &Idl<'_>, fields: impl Iterator<Item = (&'a str, &'a Type<'a>)>) -> Value {
    Value::Object(fields.map(|(name, kind)| (name.to_owned(), sample(idl, name, kind))).collect())
}

fn fields<'a>(parameters: impl Iterator<Item = &'a Parameter<'a>>) -> Vec<(&'a str, &'a Type<'a>)> {
    parameters.map(|field: &Field<'_>| (field.name().as_str(), field.ty())).collect()
}

fn sample(idl: &Idl<'_>, name: &str, kind: &Type<'_>) -> Value {
    match kind {
        Type::Bool => json!(true),
        Type::Int => json!(7),
        Type::String if name == "uuid" => json!("c0a8b2de-2f0b-4a8e-9d51-0e4c9a4f7b11"),
        Type::String if name == "word" => json!("00c0ffee00c0ffee"),
        Type::String => json!("a-text"),
        Type::Optional(inner) => sample(idl, name, inner.inner()),
        Type::Array(inner) => json!([sample(idl, name, inner.inner())]),
        Type::Custom(custom) => {
            let custom = idl.custom_types().find(|known| known.name() == custom).unwrap();
            match custom.as_enum() {
                Some(values) => json!(values.variants().next().unwrap().name().as_str()),
                None => {
                    let members: Vec<_> = custom.as_object().unwrap().fields().collect();
                    object(idl, members.iter().map(|field| (field.name().as_str(), field.ty())))
                }
            }
        }
        other => panic!("no message uses {other}"),
    }
}

fn without(value: &Value, field: &str) -> Value {
    let mut members: Map<String, Value> = value.as_object().unwrap().clone();
    members.remove(field).unwrap();
    Value::Object(members)
}

fn check<I: Interface, M: Method>() -> &'static str {
    let idl = Idl::try_from(I::DESCRIPTION).unwrap();
    let short = M::NAME.rsplit('.').next().unwrap();
    let method = idl.methods().find(|method| method.name().as_str() == short).expect(M::NAME);

    let inputs = fields(method.inputs());
    let call = object(&idl, inputs.iter().copied());
    let parsed: M = serde_json::from_value(call.clone()).expect(M::NAME);
    assert_eq!(serde_json::to_value(&parsed).unwrap(), call, "{}", M::NAME);
    for (name, kind) in inputs {
        let optional = kind.as_optional().is_some();
        let partial = serde_json::from_value::<M>(without(&call, name));
        assert_eq!(partial.is_ok(), optional, "{} without {name}", M::NAME);
    }
    let mut unknown = call;
    unknown["surprise"] = json!(1);
    assert!(serde_json::from_value::<M>(unknown).is_err(), "{} takes an unknown parameter", M::NAME);

    let reply = object(&idl, fields(method.outputs()).into_iter());
    let parsed: M::Reply = serde_json::from_value(reply.clone()).expect(M::NAME);
    assert_eq!(serde_json::to_value(&parsed).unwrap(), reply, "{}", M::NAME);
    M::NAME
}

fn check_interface<I: Interface>(checked: &[&str]) {
    assert_eq!(checked, I::METHODS);
    let idl = Idl::try_from(I::DESCRIPTION).unwrap();
    assert_eq!(idl.name().as_str(), I::NAME);
    assert_eq!(idl.methods().count(), I::METHODS.len());
    let errors: Vec<_> = idl.errors().map(|error| error.name().as_str().to_owned()).collect();
    assert_eq!(errors, FailureKind::ALL.map(|kind| format!("{kind:?}")));
}

#[test]
fn the_daemons_description_is_what_its_types_are() {
    type I = DaemonCalls;
    check_interface::<I>(&[
        check::<I, Ping>(),
        check::<I, GetVersion>(),
        check::<I, ProviderAdd>(),
        check::<I, ProviderAddKmip>(),
        check::<I, ProviderMeet>(),
        check::<I, ProviderSet>(),
        check::<I, ProviderCheck>(),
        check::<I, ProviderList>(),
        check::<I, ProviderRemove>(),
        check::<I, ProviderSetDefault>(),
        check::<I, ProviderUnlock>(),
        check::<I, ProviderReseal>(),
        check::<I, ProviderLock>(),
        check::<I, KekList>(),
        check::<I, KekShow>(),
        check::<I, KekCreate>(),
        check::<I, KekActivate>(),
        check::<I, KekRevoke>(),
        check::<I, KekDestroy>(),
        check::<I, Create>(),
        check::<I, Open>(),
        check::<I, OpenTarget>(),
        check::<I, Close>(),
        check::<I, List>(),
        check::<I, Status>(),
        check::<I, Events>(),
        check::<I, RecoveryAdd>(),
        check::<I, RecoveryRemove>(),
        check::<I, Rekey>(),
        check::<I, Adopt>(),
        check::<I, Release>(),
        check::<I, Forget>(),
        check::<I, Erase>(),
    ]);
}

#[test]
fn the_workers_description_is_what_its_types_are() {
    type I = WorkerCalls;
    check_interface::<I>(&[check::<I, Serve>(), check::<I, GetReport>(), check::<I, GetBacking>()]);
}
