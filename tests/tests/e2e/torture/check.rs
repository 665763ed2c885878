//! What must be true in the end, whatever happened: in the lake, and on the wire.

use std::collections::{BTreeMap, HashMap, HashSet};

use sendlake::demo::receivers::Receiver;
use sendlake_tests::home::Home;

use super::recipient;

/// How many accepted messages the lake knows nothing of.
pub(super) fn lost(home: &Home, taken: &[(usize, String)]) -> usize {
    let rows = home.sql("SELECT DISTINCT message_id FROM events WHERE message_id IS NOT NULL");
    let known: HashSet<_> = rows.iter().map(|row| row["message_id"].as_str().unwrap()).collect();
    taken.iter().filter(|(_, id)| !known.contains(id.as_str())).count()
}

/// What the lake must hold, whatever happened. Returns the number of attempts in doubt.
pub(super) fn lake(home: &Home, taken: &[(usize, String)], messages: usize, spools: usize) -> u64 {
    let distinct: HashSet<_> = taken.iter().map(|(_, id)| id).collect();
    assert_eq!(distinct.len(), messages, "each message has an id of its own");
    let rows = home.sql(
        "SELECT message_id, max(recipient) AS recipient, min(seq) AS first, max(seq) AS last, count(seq) AS n, \
         count(DISTINCT seq) AS seqs, sum(CASE WHEN event_type = 'accepted' THEN 1 ELSE 0 END) AS accepted, \
         sum(CASE WHEN event_type IN ('delivered', 'bounced', 'expired', 'cancelled') THEN 1 ELSE 0 END) AS terminal \
         FROM events WHERE message_id IS NOT NULL GROUP BY message_id",
    );
    let by_id: HashMap<_, _> = rows.iter().map(|row| (row["message_id"].as_str().unwrap(), row)).collect();
    assert_eq!(by_id.len(), messages, "no message is missing, and none came from nowhere");
    for (number, id) in taken {
        let row = by_id.get(id.as_str()).unwrap_or_else(|| panic!("message {id} is not in the lake"));
        assert_eq!(row["recipient"], recipient(*number));
        assert_eq!(
            (&row["accepted"], &row["terminal"]),
            (&1.into(), &1.into()),
            "one beginning, one end: {row}"
        );
        assert!(row["first"] == 1 && row["last"] == row["n"] && row["seqs"] == row["n"], "seq 1..n: {row}");
    }
    let events = &home.sql("SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM events")[0];
    assert_eq!(events["n"], events["ids"], "no event twice");
    let logs = home.sql(
        "SELECT incarnation, min(lsn) AS first, max(lsn) AS last, count(*) AS n, count(DISTINCT lsn) AS lsns \
         FROM events GROUP BY incarnation",
    );
    assert_eq!(logs.len(), spools, "each spool kept its log: {logs:?}");
    for log in logs {
        assert!(log["first"] == 1 && log["last"] == log["n"] && log["lsns"] == log["n"], "no hole: {log}");
    }
    home.count("SELECT count(*) AS n FROM events WHERE event_type = 'attempt_in_doubt'")
}

/// What went over the wire: once, except where the lake says that it may have been twice. Returns the repeats.
pub(super) fn wire(home: &Home, sink: &Receiver) -> usize {
    let mut arrivals: BTreeMap<String, u64> = BTreeMap::new();
    for recorded in sink.recorded() {
        *arrivals.entry(recorded.forward_path).or_default() += 1;
    }
    let rows = home.sql(
        "SELECT recipient, sum(CASE WHEN event_type = 'delivered' THEN 1 ELSE 0 END) AS delivered, \
         sum(CASE WHEN event_type = 'attempt_in_doubt' THEN 1 ELSE 0 END) AS in_doubt \
         FROM events WHERE message_id IS NOT NULL GROUP BY recipient",
    );
    let mut repeats = 0;
    for row in &rows {
        let recipient = row["recipient"].as_str().unwrap();
        let arrived = arrivals.remove(recipient).unwrap_or_default();
        let (delivered, in_doubt) = (row["delivered"].as_u64().unwrap(), row["in_doubt"].as_u64().unwrap());
        assert!(arrived >= delivered && arrived <= delivered + in_doubt, "{arrived} arrivals: {row}");
        repeats += usize::from(arrived > delivered);
    }
    assert!(arrivals.is_empty(), "mail that nobody sent: {arrivals:?}");
    repeats
}
