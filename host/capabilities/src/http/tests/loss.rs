//! What is found in requests on their way out: told, refused before it leaves, or said not to have been looked through.

use http::Method;
use http_body::Frame;
use http_body_util::StreamBody;
use ringfence_core::standing::Table;
use ringfence_core::{Loss, LossKind, LossPlace, LossTaken};
use serde_json::{Value, json};

use super::super::inspect::Inspection;
use super::*;

/// A server that takes a request to its end before it answers; what it took is told also where it broke off.
async fn receiver() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, taken) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let (mut all, mut buffer) = (String::new(), [0; 1024]);
                while !is_whole(&all) {
                    match stream.read(&mut buffer).await {
                        Ok(0) | Err(_) => break,
                        Ok(read) => all.push_str(&String::from_utf8_lossy(&buffer[..read])),
                    }
                }
                let _ = stream.write_all(OK).await;
                let _ = told.send(all);
            });
        }
    });
    (address, taken)
}

fn is_whole(all: &str) -> bool {
    let Some((head, body)) = all.split_once("\r\n\r\n") else { return false };
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    !is_chunked || body.ends_with("0\r\n\r\n")
}

/// A body of unknown length in these pieces.
fn pieces(pieces: &[&'static str]) -> WasiBody {
    let frames: Vec<Result<Frame<Bytes>, Error>> =
        pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).collect();
    StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}

/// A plugin that may send to one server, and its tenant's rules.
async fn sending(rules: Value) -> (Setup, String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (address, taken) = receiver().await;
    let origin = format!("http://{address}");
    let setup = setup(&[&origin], allowing(address), Budget::CEILING).await;
    let rules = Arc::new(serde_json::from_value(rules).unwrap());
    setup.rig.standing.publish(Table { losses: [("acme".parse().unwrap(), rules)].into(), ..Table::default() });
    (setup, origin, taken)
}

/// What was told since the last time: what, where, what was done, and how often.
fn told(setup: &Setup) -> Vec<(LossKind, LossPlace, LossTaken, u64)> {
    let losses: Vec<Loss> = setup.rig.standing.take_losses(None);
    assert!(losses.iter().all(|loss| loss.plugin.as_str() == "visits" && loss.invocation.is_some()));
    assert!(losses.iter().all(|loss| loss.host.as_deref() == Some("127.0.0.1")), "{losses:?}");
    let mut told: Vec<_> = losses.iter().map(|loss| (loss.kind, loss.place, loss.taken, loss.count)).collect();
    told.sort_by_key(|told| told.0);
    told
}

fn why(refused: &Error) -> &str {
    match refused {
        Error::InternalError(Some(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_card_that_is_sent_is_told_by_itself_and_the_request_arrives_whole() {
    let (mut setup, origin, mut taken) = sending(json!({})).await;
    let body = pieces(&["{\"card\": 4111 1111 ", "1111", " 1111, \"nhs\": \"943", "4765919\"} 5555555555554444"]);
    assert_eq!(send(&mut setup.gate, Method::POST, &origin, body).await.unwrap(), 200);
    assert!(taken.recv().await.unwrap().contains("5555555555554444"));
    let expected = [(LossKind::Card, 2), (LossKind::NhsNumber, 1)];
    assert_eq!(told(&setup), expected.map(|(kind, count)| (kind, LossPlace::Body, LossTaken::Sent, count)));
    assert!(setup.rig.lines.messages().is_empty());
    assert_eq!(send(&mut setup.gate, Method::POST, &origin, pieces(&["ann@example.com"])).await.unwrap(), 200);
    assert_eq!(told(&setup), [], "addresses are not looked for by themselves");
}

#[tokio::test]
async fn a_refused_card_does_not_leave_wherever_it_is_split_and_what_went_before_is_said() {
    let (mut setup, origin, mut taken) = sending(json!({ "detectors": { "card": "refuse" } })).await;
    let text = "card 4111 1111 1111 1111, thanks";
    for at in 1..text.len() - 1 {
        let body = pieces(&[&text[..at], &text[at..]]);
        let refused = send(&mut setup.gate, Method::POST, &origin, body).await.unwrap_err();
        assert!(why(&refused).starts_with("its body holds what looks like the number of a payment card"), "{refused}");
        assert!(!why(&refused).contains("1111"), "{refused}");
        let arrived = taken.recv().await.unwrap();
        assert!(!arrived.contains("11"), "split at {at}: {arrived}");
        let last = setup.rig.lines.messages().pop().unwrap();
        // Of the piece in which it is known to be a card nothing goes.
        let went = if at <= "card 4111 1111 1111 1111".len() { at.min("card ".len()) } else { 0 };
        assert!(last.contains(&format!("of the body {went} bytes went before")), "split at {at}: {last}");
        assert_eq!(told(&setup), [(LossKind::Card, LossPlace::Body, LossTaken::Refused, 1)], "split at {at}");
    }
    let near = pieces(&["4111 1111 ", "1111 1112", ", 4111"]);
    assert_eq!(send(&mut setup.gate, Method::POST, &origin, near).await.unwrap(), 200, "it fails its check");
    let arrived = taken.recv().await.unwrap();
    let arrived: String = arrived.split_once("\r\n\r\n").unwrap().1.chars().filter(char::is_ascii_digit).collect();
    assert!(arrived.contains("41111111") && arrived.contains("11111112"), "{arrived}");
    assert_eq!(told(&setup), []);
}

#[tokio::test]
async fn a_value_in_the_address_or_a_header_is_refused_before_anything_is_dialled() {
    let (mut setup, origin, mut taken) =
        sending(json!({ "detectors": { "nhs-number": "refuse", "email": "refuse" } })).await;
    let refused = get(&mut setup.gate, &format!("{origin}/patients/9434765919")).await.unwrap_err();
    assert!(why(&refused).contains("its address holds what looks like an NHS number"), "{refused}");
    let refused = get(&mut setup.gate, &format!("{origin}/?to=ann%40example.com")).await.unwrap_err();
    assert!(why(&refused).contains("an e-mail address"), "{refused}");
    let request = http::Request::get(&origin).header("x-patient", "943 476 5919").body(empty()).unwrap();
    let sent = Pin::from(setup.gate.send_request(request, None, Box::new(async { Ok(()) }))).await;
    assert!(why(&sent.map(drop).unwrap_err()).contains("its header holds"));
    assert!(taken.try_recv().is_err(), "nothing was sent");
    let expected = [
        (LossKind::NhsNumber, LossTaken::Refused, 1),
        (LossKind::NhsNumber, LossTaken::Refused, 1),
        (LossKind::Email, LossTaken::Refused, 1),
    ];
    let told: Vec<_> = told(&setup).into_iter().map(|(kind, _, taken, count)| (kind, taken, count)).collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn the_name_of_a_header_is_looked_through_as_its_value_is() {
    let (mut setup, origin, mut taken) = sending(json!({ "detectors": { "nhs-number": "refuse" } })).await;
    let request = http::Request::get(&origin).header("x-943-476-5919", "1").body(empty()).unwrap();
    let sent = Pin::from(setup.gate.send_request(request, None, Box::new(async { Ok(()) }))).await;
    assert!(why(&sent.map(drop).unwrap_err()).contains("its header holds"));
    assert!(taken.try_recv().is_err(), "nothing was sent");
    assert_eq!(told(&setup), [(LossKind::NhsNumber, LossPlace::Header, LossTaken::Refused, 1)]);
}

#[tokio::test]
async fn an_exempt_host_gets_what_it_is_named_for_and_nothing_else() {
    let rules = json!({
        "detectors": { "card": "refuse", "nhs-number": "refuse" }, "exempt": { "card": ["127.0.0.1"] },
    });
    let (mut setup, origin, mut taken) = sending(rules).await;
    assert_eq!(send(&mut setup.gate, Method::POST, &origin, pieces(&["4111111111111111"])).await.unwrap(), 200);
    assert!(taken.recv().await.unwrap().contains("4111111111111111"));
    assert_eq!(told(&setup), []);
    assert!(send(&mut setup.gate, Method::POST, &origin, pieces(&["9434765919"])).await.is_err());
}

#[tokio::test]
async fn a_body_that_cannot_be_looked_through_is_said_to_be_and_refused_where_that_is_wanted() {
    let encoded = |origin: &str| {
        let request = http::Request::post(origin).header("content-encoding", "gzip");
        request.body(pieces(&["not really"])).unwrap()
    };
    let (mut setup, origin, mut taken) = sending(json!({})).await;
    let end = || -> ringfence_engine::SendEnd { Box::new(async { Ok(()) }) };
    Pin::from(setup.gate.send_request(encoded(&origin), None, end())).await.map(drop).unwrap();
    assert!(taken.recv().await.unwrap().contains("not really"));
    assert_eq!(told(&setup), [(LossKind::Uninspected, LossPlace::Body, LossTaken::Sent, 1)]);
    let off = json!({ "detectors": { "card": "off", "nhs-number": "off" } });
    let (mut setup, origin, _taken) = sending(off).await;
    Pin::from(setup.gate.send_request(encoded(&origin), None, end())).await.map(drop).unwrap();
    assert_eq!(told(&setup), [], "nothing is looked for");
    let (mut setup, origin, mut taken) = sending(json!({ "detectors": { "uninspected": "refuse" } })).await;
    let refused = Pin::from(setup.gate.send_request(encoded(&origin), None, end())).await.map(drop).unwrap_err();
    assert!(why(&refused).contains("cannot be looked through"), "{refused}");
    assert!(taken.try_recv().is_err(), "nothing was sent");
    assert_eq!(told(&setup), [(LossKind::Uninspected, LossPlace::Body, LossTaken::Refused, 1)]);
}

#[tokio::test]
async fn what_is_behind_the_bytes_that_are_looked_through_is_said_not_to_be() {
    for (word, goes) in [("report", true), ("refuse", false)] {
        let (setup, ..) = sending(json!({ "detectors": { "card": "refuse", "uninspected": word } })).await;
        let mut inspection = Inspection::of(&setup.gate, "127.0.0.1", "http://127.0.0.1".to_owned()).unwrap();
        Arc::get_mut(&mut inspection).unwrap().bytes_max = 10;
        let text = ["looked 41", "11 through", " 4111111111111111", " and more"];
        let mut request = http::Request::post("http://127.0.0.1/").body(pieces(&text)).unwrap();
        inspection.look(&mut request).unwrap();
        let passed = request.into_body().collect().await;
        match goes {
            true => assert_eq!(passed.unwrap().to_bytes(), text.concat()),
            false => assert!(why(&passed.unwrap_err()).ends_with("of the body 19 bytes went before")),
        }
        let taken = if goes { LossTaken::Sent } else { LossTaken::Refused };
        assert_eq!(told(&setup), [(LossKind::Uninspected, LossPlace::Body, taken, 1)]);
    }
}

#[tokio::test]
async fn a_call_of_another_plugin_is_not_sent_out() {
    let mut setup = setup(&["http://visits.plugin.internal"], EgressConfig::strict(), Budget::DEFAULT).await;
    setup.gate.caller.exchange = Some(Arc::new(Answering::default()) as _);
    get(&mut setup.gate, "http://visits.plugin.internal/4111111111111111").await.unwrap();
    assert_eq!(told(&setup), []);
}

#[tokio::test]
async fn a_body_keeps_its_length_and_its_trailers_whatever_is_held() {
    let (setup, ..) = sending(json!({ "detectors": { "card": "refuse" } })).await;
    let look = |body: WasiBody| {
        let inspection = Inspection::of(&setup.gate, "127.0.0.1", "http://127.0.0.1".to_owned()).unwrap();
        let mut request = http::Request::post("http://127.0.0.1/").body(body).unwrap();
        inspection.look(&mut request).unwrap();
        request.into_body()
    };
    let whole = http_body_util::Full::new(Bytes::from_static(b"ends with 4111")).map_err(|never| match never {});
    let mut body = look(whole.boxed_unsync());
    assert_eq!(http_body::Body::size_hint(&body).exact(), Some(14));
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ends with ");
    assert_eq!((http_body::Body::size_hint(&body).exact(), http_body::Body::is_end_stream(&body)), (Some(4), false));
    assert_eq!(body.collect().await.unwrap().to_bytes(), "4111");

    let trailing = |value: &'static str| {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-end", http::HeaderValue::from_static(value));
        let frames = vec![Ok(Frame::data(Bytes::from_static(b"4111"))), Ok(Frame::trailers(trailers))];
        StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
    };
    let passed = look(trailing("fine")).collect().await.unwrap();
    assert_eq!(passed.trailers().unwrap()["x-end"], "fine");
    assert_eq!(passed.to_bytes(), "4111");
    assert!(why(&look(trailing("4111111111111111")).collect().await.unwrap_err()).contains("its header"));
}
