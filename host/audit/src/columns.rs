//! Entries as a Parquet file: the columns of the table for spreadsheets, and beside them the envelope and the body whole; one
//! row group for each UTC day. The schema is below; columns are added at the end and never change their meaning.
//!
//! Pure. Must never hold more than one day's columns beside the rows themselves. What is read back is read with the library's
//! own reader, after the manifest's signature was checked.

use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::record::Field;
use parquet::schema::parser::parse_message_type;
use serde_json::Value;

use crate::export::Row;
use crate::table::OF_BODY;

/// The columns, in order; also what docs/reference/audit-exports.md shows.
pub const SCHEMA: &str = "message entries {
    REQUIRED INT64 seq;
    REQUIRED INT64 time (TIMESTAMP(MILLIS,true));
    REQUIRED BYTE_ARRAY code (STRING);
    REQUIRED INT32 class_uid;
    REQUIRED INT32 activity_id;
    REQUIRED BYTE_ARRAY status (STRING);
    REQUIRED INT32 action_id;
    OPTIONAL BYTE_ARRAY actor (STRING);
    OPTIONAL BYTE_ARRAY operation (STRING);
    OPTIONAL BYTE_ARRAY resource (STRING);
    OPTIONAL BYTE_ARRAY source_ip (STRING);
    OPTIONAL BYTE_ARRAY request (STRING);
    OPTIONAL BYTE_ARRAY decision (STRING);
    REQUIRED BYTE_ARRAY leaf_hash (STRING);
    REQUIRED BYTE_ARRAY envelope (STRING);
    OPTIONAL BYTE_ARRAY body (JSON);
}";
/// LIMIT: row groups of a file; entries of later days stay in the last. The format's own limit is above it.
const GROUPS_COUNT_MAX: usize = 10_000;
const MS_PER_DAY: i64 = 86_400_000;

/// One entry, as its cells.
struct Cells {
    time: i64,
    cells: Vec<Cell>,
}

#[derive(Debug, Clone)]
enum Cell {
    Long(i64),
    Int(i32),
    Text(Option<String>),
}

/// The file.
pub fn to_parquet(rows: &[Row]) -> Result<Vec<u8>, String> {
    write(rows).map_err(|error| error.to_string())
}

/// Whether a file holds exactly these entries; the error says why it cannot be read.
pub fn is_of(file: Vec<u8>, rows: &[Row]) -> Result<bool, String> {
    let reader = SerializedFileReader::new(Bytes::from(file)).map_err(|error| error.to_string())?;
    if reader.metadata().file_metadata().num_rows() != i64::try_from(rows.len()).unwrap_or(-1) {
        return Ok(false);
    }
    let mut read = reader.get_row_iter(None).map_err(|error| error.to_string())?;
    for row in rows {
        let Some(found) = read.next() else { return Ok(false) };
        let found = found.map_err(|error| error.to_string())?;
        let expected: Vec<Field> = cells(row)?.cells.into_iter().enumerate().map(field).collect();
        if !found.get_column_iter().map(|(_, field)| field).eq(expected.iter()) {
            return Ok(false);
        }
    }
    Ok(read.next().is_none())
}

fn write(rows: &[Row]) -> Result<Vec<u8>, ParquetError> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    // The library names itself and its version otherwise: the same entries shall give the same bytes.
    let properties =
        WriterProperties::builder().set_compression(Compression::SNAPPY).set_created_by("ringfence".to_owned()).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let (mut group, mut groups_count): (Vec<Cells>, usize) = (Vec::new(), 0);
    for row in rows {
        let next = cells(row).map_err(ParquetError::General)?;
        let day = |cells: &Cells| cells.time.div_euclid(MS_PER_DAY);
        // A clock that stepped back begins no older day again.
        let is_later = group.first().is_some_and(|first| day(&next) > day(first));
        if is_later && groups_count + 1 < GROUPS_COUNT_MAX {
            write_group(writer.next_row_group()?, &group)?;
            groups_count += 1;
            group.clear();
        }
        group.push(next);
    }
    if !group.is_empty() {
        write_group(writer.next_row_group()?, &group)?;
    }
    writer.into_inner()
}

fn write_group(mut group: SerializedRowGroupWriter<'_, Vec<u8>>, rows: &[Cells]) -> Result<(), ParquetError> {
    let mut place = 0;
    while let Some(mut column) = group.next_column()? {
        let cells = rows.iter().filter_map(|row| row.cells.get(place));
        match rows.first().and_then(|row| row.cells.get(place)) {
            Some(Cell::Long(_)) => {
                let values: Vec<i64> =
                    cells.map(|cell| if let Cell::Long(value) = cell { *value } else { 0 }).collect();
                column.typed::<Int64Type>().write_batch(&values, None, None)?;
            }
            Some(Cell::Int(_)) => {
                let values: Vec<i32> = cells.map(|cell| if let Cell::Int(value) = cell { *value } else { 0 }).collect();
                column.typed::<Int32Type>().write_batch(&values, None, None)?;
            }
            _ => {
                let texts: Vec<Option<&str>> =
                    cells.map(|cell| if let Cell::Text(text) = cell { text.as_deref() } else { None }).collect();
                let values: Vec<ByteArray> = texts.iter().flatten().map(|text| ByteArray::from(*text)).collect();
                // Where a column may be empty, the levels say which rows are; where it may not, they are not looked at.
                let levels: Vec<i16> = texts.iter().map(|text| i16::from(text.is_some())).collect();
                column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
            }
        }
        column.close()?;
        place += 1;
    }
    group.close()?;
    Ok(())
}

fn cells(row: &Row) -> Result<Cells, String> {
    let envelope: Value = serde_json::from_str(&row.entry.envelope).map_err(|error| error.to_string())?;
    let body = row.entry.body.as_ref().unwrap_or(&Value::Null);
    let long = |name: &str| envelope.get(name).and_then(Value::as_i64).unwrap_or(0);
    let int = |name: &str| Cell::Int(i32::try_from(long(name)).unwrap_or(0));
    let said = |name: &str| Cell::Text(Some(envelope.get(name).and_then(Value::as_str).unwrap_or("").to_owned()));
    let time = long("time");
    let mut cells = vec![
        Cell::Long(i64::try_from(row.seq).unwrap_or(i64::MAX)),
        Cell::Long(time),
        said("code"),
        int("class_uid"),
        int("activity_id"),
        said("status"),
        int("action_id"),
    ];
    cells.extend(OF_BODY.iter().map(|pointer| {
        let value = body.pointer(pointer).filter(|value| !value.is_null());
        Cell::Text(value.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
    }));
    cells.push(Cell::Text(Some(row.entry.leaf_hash.clone())));
    cells.push(Cell::Text(Some(row.entry.envelope.clone())));
    cells.push(Cell::Text(row.entry.body.as_ref().map(Value::to_string)));
    Ok(Cells { time, cells })
}

/// What the reader gives for a cell; the second column is a time.
fn field((place, cell): (usize, Cell)) -> Field {
    match cell {
        Cell::Long(value) if place == 1 => Field::TimestampMillis(value),
        Cell::Long(value) => Field::Long(value),
        Cell::Int(value) => Field::Int(value),
        Cell::Text(Some(text)) => Field::Str(text),
        Cell::Text(None) => Field::Null,
    }
}

#[cfg(test)]
mod tests {
    use parquet::record::RowAccessor;
    use serde_json::json;

    use super::*;
    use crate::Entry;

    fn row(seq: u64, time: i64, actor: Option<&str>) -> Row {
        let envelope = json!({"seq": seq, "time": time, "code": "PLG-001 version-pushed", "class_uid": 6002,
            "activity_id": 1, "status": "Success", "action_id": 1});
        let body = actor.map(|actor| json!({"actor": {"user": {"uid": actor}}, "resources": [{"uid": "=1+1"}]}));
        let entry = Entry { envelope: envelope.to_string(), leaf_hash: "ab".repeat(32), body, salt: String::new() };
        Row { seq, entry, path: Vec::new() }
    }

    fn reader(file: Vec<u8>) -> SerializedFileReader<Bytes> {
        SerializedFileReader::new(Bytes::from(file)).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_with_a_row_group_for_each_day() {
        let days = [0, 5, MS_PER_DAY, MS_PER_DAY + 1, MS_PER_DAY - 1, 3 * MS_PER_DAY];
        let rows: Vec<Row> =
            (0..).zip(days).map(|(seq, time)| row(seq, time, (seq != 2).then_some("acme/ada ü \u{1F600}"))).collect();
        let file = to_parquet(&rows).unwrap();
        let reader = reader(file.clone());
        let groups: Vec<i64> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
        assert_eq!(groups, [2, 3, 1]);
        let columns = reader.metadata().row_groups().iter().flat_map(|group| group.columns());
        assert!(columns.map(|column| column.compression()).all(|codec| codec == Compression::SNAPPY));
        let read: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!((read[3].get_long(0).unwrap(), read[3].get_timestamp_millis(1).unwrap()), (3, MS_PER_DAY + 1));
        assert_eq!(read[3].get_string(7).unwrap(), "acme/ada ü \u{1F600}");
        assert!(read[2].get_string(7).is_err() && read[2].get_string(15).is_err());
        assert!(is_of(file, &rows).unwrap());
    }

    #[test]
    fn a_changed_cell_a_missing_row_and_a_broken_file_are_seen() {
        let rows: Vec<Row> = (0..4).map(|seq| row(seq, 7, Some("acme/ada"))).collect();
        let file = to_parquet(&rows).unwrap();
        let mut other = rows.clone();
        other[2] = row(2, 7, Some("acme/bob"));
        assert!(!is_of(to_parquet(&other).unwrap(), &rows).unwrap());
        assert!(!is_of(to_parquet(&rows[..3]).unwrap(), &rows).unwrap());
        assert!(is_of(file[..file.len() / 2].to_vec(), &rows).is_err());
        assert!(is_of(b"PAR1 not at all PAR1".to_vec(), &rows).is_err());
    }

    #[test]
    fn the_same_entries_give_the_same_bytes_and_none_give_an_empty_file() {
        let rows: Vec<Row> = (0..100).map(|seq| row(seq, 7, Some("acme/ada"))).collect();
        assert_eq!(to_parquet(&rows).unwrap(), to_parquet(&rows).unwrap());
        assert_eq!(reader(to_parquet(&[]).unwrap()).metadata().file_metadata().num_rows(), 0);
    }
}
