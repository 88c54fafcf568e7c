//! What several nodes saw of the same servers, side by side. Pure.

use crate::client::Grade;

/// Each address of each server, and how each node judges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideBySide {
    /// The nodes, in order.
    pub nodes: Vec<String>,
    /// The servers, in the order they were first seen.
    pub rows: Vec<Row>,
}

/// One address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The server's name.
    pub server: String,
    /// Its address, if it has one.
    pub address: Option<String>,
    /// The worst each node found; `None` where a node has nothing to say of it.
    pub grades: Vec<Option<Grade>>,
}

impl SideBySide {
    /// Nothing yet of what these nodes saw.
    pub fn of(nodes: Vec<String>) -> Self {
        Self { nodes, rows: Vec::new() }
    }

    /// A node found this there.
    pub fn add(&mut self, node: &str, server: &str, address: Option<&str>, grade: Grade) {
        let Some(column) = self.nodes.iter().position(|name| name == node) else { return };
        let is_it = |row: &Row| row.server == server && row.address.as_deref() == address;
        let place = self.rows.iter().position(is_it).unwrap_or_else(|| {
            let (server, address) = (server.to_owned(), address.map(str::to_owned));
            self.rows.push(Row { server, address, grades: vec![None; self.nodes.len()] });
            self.rows.len() - 1
        });
        if let Some(cell) = self.rows[place].grades.get_mut(column) {
            *cell = Some(cell.map_or(grade, |before| before.max(grade)));
        }
    }

    /// The worst of all; `None` when there is no server.
    pub fn worst(&self) -> Option<Grade> {
        self.rows.iter().flat_map(|row| row.grades.iter().flatten()).copied().max()
    }

    /// A sentence about each server that is well for some nodes and not for others.
    pub fn differences(&self) -> Vec<String> {
        self.rows.iter().filter_map(|row| self.difference(row)).collect()
    }

    fn difference(&self, row: &Row) -> Option<String> {
        let nodes = |is_bad: bool| {
            let judged = self.nodes.iter().zip(&row.grades);
            let those = judged
                .filter(|(_, grade)| grade.is_some_and(|grade| (grade == Grade::Bad) == is_bad));
            those.map(|(node, _)| node.as_str()).collect::<Vec<_>>()
        };
        let (well, not) = (nodes(false), nodes(true));
        let place = row.address.as_ref().map(|at| format!(" ({at})")).unwrap_or_default();
        (!well.is_empty() && !not.is_empty()).then(|| {
            let server = &row.server;
            format!("{server}{place} works from {}, but not from {}.", list(&well), list(&not))
        })
    }
}

/// `mx1, mx2 and mx3`
fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_answers_one_node_and_not_another_is_named() {
        let nodes = ["mx1", "mx2", "mx3", "mx4"].map(str::to_owned).to_vec();
        let mut seen = SideBySide::of(nodes);
        assert_eq!((seen.worst(), seen.differences()), (None, Vec::new()));
        for (node, grades) in [
            ("mx1", [Grade::Good, Grade::Good]),
            ("mx2", [Grade::Bad, Grade::Good]),
            ("mx3", [Grade::Fair, Grade::Good]),
        ] {
            seen.add(node, "mail.acme.test", Some("192.0.2.9:25"), grades[0]);
            seen.add(node, "mail.acme.test", Some("192.0.2.9:25"), Grade::Good);
            seen.add(node, "backup.acme.test", Some("192.0.2.10:25"), grades[1]);
        }
        seen.add("elsewhere", "mail.acme.test", None, Grade::Bad);
        assert_eq!(seen.worst(), Some(Grade::Bad));
        let sentence = "mail.acme.test (192.0.2.9:25) works from mx1 and mx3, but not from mx2.";
        assert_eq!(seen.differences(), [sentence]);
        assert_eq!(seen.rows.len(), 2);
        let grades = [Some(Grade::Good), Some(Grade::Bad), Some(Grade::Fair), None];
        assert_eq!(seen.rows[0].grades, grades, "the worst of each, and nothing of mx4");
    }

    #[test]
    fn what_is_bad_for_all_differs_for_nobody() {
        let mut seen = SideBySide::of(vec!["mx1".to_owned(), "mx2".to_owned()]);
        seen.add("mx1", "mail.acme.test", None, Grade::Bad);
        seen.add("mx2", "mail.acme.test", None, Grade::Bad);
        assert!(seen.differences().is_empty());
        assert_eq!(list(&["mx1", "mx2", "mx3"]), "mx1, mx2 and mx3");
    }
}
