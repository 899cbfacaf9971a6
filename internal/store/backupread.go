package store

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"

	"github.com/alertmedic/alertmedic/internal/journal"
)

// ErrBadBackup says that a file is no backup, or not a whole one, or was altered.
var ErrBadBackup = errors.New("the backup cannot be used")

// ErrBrokenLog says that the chain of a backup's remediation log does not hold:
// a *journal.ChainError says where. With it the backup is whole otherwise.
var ErrBrokenLog = errors.New("its remediation log was tampered with, before the backup was taken")

// maxBackupLine bounds one line: a row with the largest plan is far below it.
const maxBackupLine = 256 << 20

// backupReader reads a backup line by line, and vouches for it at the end only.
type backupReader struct {
	header BackupHeader
	r      *bufio.Reader
	sum    hash.Hash
	lineNo int
	buf    []byte
	rows   map[string]int64
	chain  journal.Verifier
	// broken is where the log's chain breaks, nil if it holds. A backup whose log
	// was tampered with is whole for all that.
	broken error
	// entry gets every sealed entry that follows the one before; nil: nobody.
	entry func(journal.Entry) error
}

// backupSink takes what a backup holds. Nothing of it may be kept when the
// reader's error is not nil.
type backupSink struct {
	table func(name string, columns []string) error
	// row gets values of int64, string and nil, which are the sink's to keep.
	row func(values []any) error
}

// newBackupReader reads the header; r may be gzipped or not.
func newBackupReader(r io.Reader) (*backupReader, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	if magic, err := br.Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		zip, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("%w: it is no gzip file: %w", ErrBadBackup, err)
		}
		br = bufio.NewReaderSize(zip, 64<<10)
	}
	b := &backupReader{r: br, sum: sha256.New(), rows: map[string]int64{}}
	line, err := b.next()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it is empty", ErrBadBackup)
	}
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(line, &b.header) != nil || b.header.Format != backupFormat {
		return nil, fmt.Errorf("%w: it does not begin as one; `alertmedic backup` makes them", ErrBadBackup)
	}
	if b.header.Version > backupVersion {
		return nil, fmt.Errorf("%w: its format is version %d and this program reads up to %d: use the version that made it (%s)",
			ErrBadBackup, b.header.Version, backupVersion, b.header.Program)
	}
	if b.header.Schema > latestSchema() {
		return nil, newerSchema("the backup", b.header.Schema, latestSchema())
	}
	return b, nil
}

// next returns the next line; it is valid until the call after. io.EOF is only
// the end between two lines.
func (b *backupReader) next() ([]byte, error) {
	b.lineNo++
	b.buf = b.buf[:0]
	for {
		part, err := b.r.ReadSlice('\n')
		b.buf = append(b.buf, part...)
		switch {
		case err == nil:
			return b.buf, nil
		case errors.Is(err, bufio.ErrBufferFull):
			if len(b.buf) > maxBackupLine {
				return nil, fmt.Errorf("%w: line %d has no end", ErrBadBackup, b.lineNo)
			}
		case errors.Is(err, io.EOF) && len(b.buf) == 0:
			return nil, io.EOF
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, fmt.Errorf("%w: it is cut off in line %d: copy it again, or take another", ErrBadBackup, b.lineNo)
		case errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader), errors.As(err, new(flate.CorruptInputError)):
			return nil, fmt.Errorf("%w: it is damaged near line %d: %w", ErrBadBackup, b.lineNo, err)
		default:
			return nil, fmt.Errorf("read the backup: %w", err)
		}
	}
}

// read hands everything to the sink and checks the whole: the checksum, the
// counts of rows, and the journal's chain.
func (b *backupReader) read(sink backupSink) (BackupInfo, error) {
	info := BackupInfo{BackupHeader: b.header, Rows: b.rows}
	b.sum.Write(b.buf)
	var current tableLine
	var entries *entryColumnsAt
	for {
		line, err := b.next()
		if errors.Is(err, io.EOF) {
			return info, fmt.Errorf("%w: it is cut off after line %d: copy it again, or take another", ErrBadBackup, b.lineNo-1)
		}
		if err != nil {
			return info, err
		}
		if line[0] != '[' {
			var kind struct {
				tableLine
				endLine
			}
			if err := json.Unmarshal(line, &kind); err != nil || (kind.Table == "") == (kind.SHA256 == "") {
				return info, b.bad("it is neither a table, nor a row, nor the end")
			}
			if kind.SHA256 != "" {
				info.SHA256 = kind.SHA256
				err := b.end(kind.endLine)
				if b.broken != nil {
					info.BrokenLog = b.broken.Error()
				}
				return info, err
			}
			if current = kind.tableLine; current.Table == "journal" {
				if entries, err = journalColumns(current.Columns); err != nil {
					return info, b.bad("%v", err)
				}
			}
			b.sum.Write(line)
			if err := sink.table(current.Table, current.Columns); err != nil {
				return info, err
			}
			if _, twice := b.rows[current.Table]; twice {
				return info, b.bad("table %s comes twice", current.Table)
			}
			b.rows[current.Table] = 0
			continue
		}
		b.sum.Write(line)
		values, err := decodeRow(line)
		if err != nil || len(values) != len(current.Columns) {
			return info, b.bad("it is no row of table %s (%v)", current.Table, err)
		}
		if current.Table == "journal" {
			if err := b.verify(entries, values); err != nil {
				return info, err
			}
		}
		b.rows[current.Table]++
		if err := sink.row(values); err != nil {
			return info, fmt.Errorf("line %d: %w", b.lineNo, err)
		}
	}
}

func (b *backupReader) bad(format string, args ...any) error {
	return fmt.Errorf("%w: line %d: %s", ErrBadBackup, b.lineNo, fmt.Sprintf(format, args...))
}

func (b *backupReader) end(e endLine) error {
	if sum := hex.EncodeToString(b.sum.Sum(nil)); sum != e.SHA256 {
		return fmt.Errorf("%w: it was altered or damaged: its checksum is %s and should be %s", ErrBadBackup, sum, e.SHA256)
	}
	if !maps.Equal(e.Rows, b.rows) {
		return fmt.Errorf("%w: it holds %v rows and should hold %v", ErrBadBackup, b.rows, e.Rows)
	}
	if _, err := b.next(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = b.bad("there is more after the end")
		}
		return err
	}
	if b.broken == nil {
		b.broken = b.chain.End()
	}
	if head := b.chain.Head(); b.broken == nil && head != b.header.Journal {
		return fmt.Errorf("%w: its remediation log ends at seq %d (%s) and should end at %d (%s)",
			ErrBadBackup, head.Seq, head.Hash, b.header.Journal.Seq, b.header.Journal.Hash)
	}
	if b.broken != nil {
		return fmt.Errorf("%w: it is whole, but %w: %w", ErrBadBackup, ErrBrokenLog, b.broken)
	}
	return nil
}

// entryColumnsAt are the places of what a journal entry is read from.
type entryColumnsAt struct{ seq, prev, hash, doc int }

func journalColumns(columns []string) (*entryColumnsAt, error) {
	at := &entryColumnsAt{slices.Index(columns, "seq"), slices.Index(columns, "prev_hash"), slices.Index(columns, "hash"), slices.Index(columns, "doc")}
	if min(at.seq, at.prev, at.hash, at.doc) < 0 {
		return nil, fmt.Errorf("the journal lacks a column: it has %v", columns)
	}
	return at, nil
}

// BackupEntries hands the sealed entries of a backup's log to entry, in their
// order, and checks the backup as VerifyBackup does. The entries may be trusted
// when it returns nil, and up to the last good one when a *journal.ChainError.
func BackupEntries(r io.Reader, entry func(journal.Entry) error) error {
	b, err := newBackupReader(r)
	if err != nil {
		return err
	}
	b.entry = entry
	_, err = b.read(backupSink{table: func(string, []string) error { return nil }, row: func([]any) error { return nil }})
	return err
}

// verify adds a row of the journal to the chain; unsealed entries have no place
// in it yet.
func (b *backupReader) verify(at *entryColumnsAt, values []any) error {
	if values[at.seq] == nil || b.broken != nil {
		return nil //nolint:nilerr // told at the end
	}
	e, err := scanEntry(rowScanner{values[at.seq], values[at.prev], values[at.hash], values[at.doc]})
	if err != nil {
		return b.bad("%v", err)
	}
	if b.broken = b.chain.Add(e); b.broken != nil {
		return nil //nolint:nilerr // told at the end, when the rest is known to be whole
	}
	if b.entry != nil {
		return b.entry(e)
	}
	return nil
}

// rowScanner scans values that were read already.
type rowScanner []any

func (r rowScanner) Scan(dest ...any) error {
	for i, d := range dest {
		var ok bool
		switch d := d.(type) {
		case *int64:
			*d, ok = r[i].(int64)
		case *string:
			*d, ok = r[i].(string)
		}
		if !ok {
			return fmt.Errorf("a %T stands where a %T should be", r[i], d)
		}
	}
	return nil
}

func decodeRow(line []byte) ([]any, error) {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	var values []any
	if err := dec.Decode(&values); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	for i, v := range values {
		switch v := v.(type) {
		case nil, string:
		case json.Number:
			n, err := v.Int64()
			if err != nil {
				return nil, fmt.Errorf("%s is no integer", v)
			}
			values[i] = n
		case map[string]any:
			var raw rawText
			doc, err := json.Marshal(v)
			if err == nil {
				err = json.Unmarshal(doc, &raw)
			}
			if err != nil {
				return nil, fmt.Errorf("value %d: %w", i, err)
			}
			values[i] = string(raw.Base64)
		default:
			return nil, fmt.Errorf("value %d is a %T", i, v)
		}
	}
	return values, nil
}

// VerifyBackup reads a whole backup and checks it: that it is all there and
// unaltered, and that the chain of its remediation log holds. The
// error wraps ErrBadBackup or ErrNewerSchema.
func VerifyBackup(r io.Reader) (BackupInfo, error) {
	b, err := newBackupReader(r)
	if err != nil {
		return BackupInfo{}, err
	}
	return b.read(backupSink{table: func(string, []string) error { return nil }, row: func([]any) error { return nil }})
}
