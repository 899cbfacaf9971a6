package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// errDamagedLog says that a write-ahead log has lost transactions which had been
// committed.
var errDamagedLog = errors.New("the write-ahead log is damaged")

// checkLog reads the write-ahead log of an SQLite file that nobody has open and
// fails when it is proven to be damaged.
//
// SQLite takes the first frame that does not fit its checksum for the end of the
// log, because a crash may leave the last transaction half-written, and drops the
// rest without a word. With synchronous=FULL a transaction is begun only after
// the one before it is on the disk: whole frames of a later transaction behind
// the bad one therefore prove that acknowledged data has been damaged. A damage
// in the very last transaction cannot be told from a crash.
func checkLog(file string) error {
	f, err := os.Open(file + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the write-ahead log: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read the write-ahead log: %w", err)
	}
	l := logReader{r: bufio.NewReaderSize(f, 1<<20), pageSize: pageSize(file)}
	bad, dropped, err := l.check(info.Size())
	if err != nil {
		return fmt.Errorf("read the write-ahead log: %w", err)
	}
	if dropped == 0 {
		return nil
	}
	where := fmt.Sprintf("frame %d", bad)
	if bad == 0 {
		where = "the header"
	}
	return fmt.Errorf("%w: %s of %s-wal does not fit its checksum, and %d or more pages that were committed after it would be dropped without a word", errDamagedLog, where, file, dropped)
}

// pageSize reads the size of a page from the database's header.
func pageSize(file string) int {
	const usual = 4096
	f, err := os.Open(file)
	if err != nil {
		return usual
	}
	defer f.Close()
	var b [2]byte
	if _, err := f.ReadAt(b[:], 16); err != nil {
		return usual
	}
	return validPageSize(int(binary.BigEndian.Uint16(b[:])))
}

func validPageSize(n int) int {
	switch {
	case n == 1:
		return 65536
	case n >= 512 && n <= 65536 && n&(n-1) == 0:
		return n
	}
	return 4096
}

// The layout is that of https://www.sqlite.org/walformat.html.
const (
	logHeaderSize   = 32
	frameHeaderSize = 24
	logMagic        = 0x377f0682 // the last bit says that checksums are big-endian
)

type logReader struct {
	r        io.Reader
	pageSize int
}

// check returns the number of the first bad frame, from 1 (0 is the header), and
// how many whole frames of later transactions lie behind it.
func (l *logReader) check(size int64) (bad int64, dropped int, err error) {
	if size < int64(logHeaderSize+frameHeaderSize) {
		return 0, 0, nil
	}
	var head [logHeaderSize]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return 0, 0, err
	}
	magic := binary.BigEndian.Uint32(head[:])
	var order binary.ByteOrder = binary.LittleEndian
	if magic == logMagic|1 {
		order = binary.BigEndian
	}
	sum := checksum{}.add(order, head[:24])
	sound := magic&^1 == logMagic && sum == stored(head[24:])
	if sound {
		l.pageSize = validPageSize(int(binary.BigEndian.Uint32(head[8:])))
	}
	salts := [8]byte(head[16:24])
	whole := sound // everything so far is as SQLite will read it
	ended := false // the chain of frames at hand holds the end of a transaction
	frame := make([]byte, frameHeaderSize+l.pageSize)
	for n := int64(1); ; n++ {
		if _, err := io.ReadFull(l.r, frame); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return bad, dropped, nil
			}
			return 0, 0, err
		}
		if !sound && n == 1 {
			// A header that is lost takes the salts with it: the frames have them too.
			salts = [8]byte(frame[8:16])
		}
		// Zeroes, of a file whose size came before its contents, have page 0.
		ours := [8]byte(frame[8:16]) == salts && binary.BigEndian.Uint32(frame[:]) != 0
		// Each frame's checksum goes on from that of the frame before, as stored
		// there: so what follows a bad frame can be checked all the same.
		fits := ours && sum.add(order, frame[:8]).add(order, frame[frameHeaderSize:]) == stored(frame[16:])
		if whole && !fits {
			whole, ended, bad = false, false, n
		} else if !whole && fits && (ended || !sound) {
			dropped++
		}
		if !fits && !whole {
			ended = false
		}
		ended = ended || ours && binary.BigEndian.Uint32(frame[4:]) != 0
		sum = stored(frame[16:])
	}
}

// checksum is the running checksum of a log.
type checksum [2]uint32

func stored(b []byte) checksum {
	return checksum{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])}
}

func (c checksum) add(order binary.ByteOrder, b []byte) checksum {
	for ; len(b) >= 8; b = b[8:] {
		c[0] += order.Uint32(b) + c[1]
		c[1] += order.Uint32(b[4:]) + c[0]
	}
	return c
}
