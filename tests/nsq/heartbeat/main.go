// Heartbeats through go-nsq, the client library the Go dataservers use: proves that what they publish is what
// the gateway reads, and that what the gateway's own publisher and embedded NSQ send is what go-nsq reads.
//
//	heartbeat seed-producer -nsqd A[,B..] -topic T -addr HOST:PORT [-interval 1s]
//	heartbeat producer      -nsqd A[,B..] -topic T -addr HOST:PORT [-interval 1s]
//	heartbeat consumer      -nsqd A[,B..] | -lookupd H[,I..]  -topic T -channel C -count N [-timeout 20s] [-requeue-first]
//
// Producers run until killed. A consumer prints "<attempts> <body>" per delivery and exits 0 after N finished
// messages, 1 on timeout. Errors go to stderr; a wrong command line exits 2.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/nsqio/go-nsq"
)

var (
	flags    = flag.NewFlagSet("heartbeat", flag.ExitOnError)
	nsqd     = flags.String("nsqd", "", "nsqd TCP addresses, comma separated")
	lookupd  = flags.String("lookupd", "", "nsqlookupd HTTP addresses, comma separated")
	topic    = flags.String("topic", "data_server_addr", "topic")
	channel  = flags.String("channel", "", "channel to read")
	addr     = flags.String("addr", "", "heartbeat body: the dataserver's host:port")
	interval = flags.Duration("interval", time.Second, "time between heartbeats, and before the first one")
	count    = flags.Int("count", 1, "messages to finish before exit")
	timeout  = flags.Duration("timeout", 20*time.Second, "longest wait for them")
	requeue  = flags.Bool("requeue-first", false, "requeue the first attempt of each message")

	quiet = log.New(io.Discard, "", 0)
)

func main() {
	if len(os.Args) < 2 {
		usage("a sub-command is missing: seed-producer, producer or consumer")
	}
	_ = flags.Parse(os.Args[2:])
	if flags.NArg() > 0 {
		usage("not a flag: " + flags.Arg(0))
	}
	nsqds, lookupds := list(*nsqd), list(*lookupd)

	switch command := os.Args[1]; command {
	case "seed-producer", "producer":
		if len(nsqds) == 0 || *addr == "" || *interval <= 0 {
			usage(command + " needs -nsqd, -addr and a positive -interval")
		}
		if command == "producer" {
			beat(nsqds, kept(nsqds))
		}
		beat(nsqds, fresh)
	case "consumer":
		if (len(nsqds) == 0) == (len(lookupds) == 0) || *channel == "" || *count < 1 {
			usage("consumer needs -channel, a positive -count and either -nsqd or -lookupd")
		}
		os.Exit(consume(nsqds, lookupds))
	default:
		usage("unknown sub-command: " + command)
	}
}

// beat sends one heartbeat per tick, each to a random nsqd. A failed one is reported; the next tick is the retry.
func beat(nsqds []string, producerFor func(nsqd string) *nsq.Producer) {
	for range time.Tick(*interval) {
		to := nsqds[rand.IntN(len(nsqds))]
		if err := producerFor(to).Publish(*topic, []byte(*addr)); err != nil {
			fmt.Fprintf(os.Stderr, "publish to %s: %v\n", to, err)
		}
	}
}

// fresh is the deployed dataservers' way: a new producer per heartbeat, never stopped. Every heartbeat so leaves
// one more idle connection at its nsqd, which is the point: a server that stands in for nsqd has to bear it.
func fresh(nsqd string) *nsq.Producer {
	producer, err := nsq.NewProducer(nsqd, nsq.NewConfig())
	exitOn(err)
	producer.SetLogger(quiet, nsq.LogLevelError)
	return producer
}

// kept is the usual way: one producer per nsqd, which connects at its first publish and again after a failure.
func kept(nsqds []string) func(string) *nsq.Producer {
	producers := make(map[string]*nsq.Producer)
	for _, nsqd := range nsqds {
		producers[nsqd] = fresh(nsqd)
	}
	return func(nsqd string) *nsq.Producer { return producers[nsqd] }
}

func consume(nsqds, lookupds []string) int {
	config := nsq.NewConfig()
	config.MaxInFlight = 100
	config.MaxAttempts = 0 // no limit: go-nsq would finish a message unseen after five attempts
	config.LookupdPollInterval = 500 * time.Millisecond
	config.LookupdPollJitter = 0
	consumer, err := nsq.NewConsumer(*topic, *channel, config)
	exitOn(err)
	consumer.SetLogger(quiet, nsq.LogLevelError)

	finished := 0 // touched by the one handler goroutine only, and read after it has ended
	done := make(chan struct{})
	consumer.AddHandler(nsq.HandlerFunc(func(m *nsq.Message) error {
		if finished == *count { // in flight beyond the count: left to the channel's next consumer
			m.RequeueWithoutBackoff(0)
			return nil
		}
		fmt.Printf("%d %s\n", m.Attempts, m.Body)
		if *requeue && m.Attempts == 1 {
			m.RequeueWithoutBackoff(0)
			return nil
		}
		m.Finish()
		if finished++; finished == *count {
			close(done)
		}
		return nil
	}))
	if len(lookupds) > 0 {
		err = consumer.ConnectToNSQLookupds(lookupds)
	} else {
		err = consumer.ConnectToNSQDs(nsqds)
	}
	exitOn(err)

	select {
	case <-done:
	case <-time.After(*timeout):
	}
	consumer.Stop() // flushes the last FIN before the connection closes
	select {
	case <-consumer.StopChan:
	case <-time.After(2 * time.Second):
	}
	select {
	case <-done:
		return 0
	default:
		fmt.Fprintln(os.Stderr, "timeout")
		return 1
	}
}

func list(commaSeparated string) []string {
	return strings.FieldsFunc(commaSeparated, func(r rune) bool { return r == ',' })
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func usage(fault string) {
	fmt.Fprintln(os.Stderr, fault)
	os.Exit(2)
}
