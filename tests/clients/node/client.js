// Heartbeats through nsqjs: proves that a Node client can publish to what the gateway reads from, and read what
// the gateway's own publisher and embedded NSQ send.
//
//   client.js produce --nsqd HOST:PORT --topic T --body B [--interval 1]
//   client.js consume --nsqd HOST:PORT --topic T --channel C --count N [--timeout 20]
//
// `produce` runs until killed: one message per interval (seconds), the first after one interval. `consume` prints
// "<attempts> <body>" per message and exits 0 after N finished ones, 1 on timeout. Errors go to stderr; a wrong
// command line exits 2.
'use strict'

const { parseArgs } = require('node:util')
const { Reader, Writer } = require('nsqjs')

function produce({ nsqd, topic, body, interval }) {
  const report = (error) => error && console.error(`publish to ${nsqd}: ${error.message}`)
  let writer

  // A Writer never reconnects by itself, so a lost one is replaced at the next tick.
  const connect = () => {
    const [host, port] = nsqd.split(':')
    const fresh = new Writer(host, Number(port))
    const lost = (error) => { // emitted more than once for one loss
      if (writer !== fresh) return
      report(error || new Error('connection closed'))
      writer = null
    }
    fresh.on(Writer.ERROR, lost)
    fresh.on(Writer.CLOSED, lost)
    fresh.connect()
    writer = fresh
  }
  connect()
  setInterval(() => {
    if (!writer) connect()
    else if (!writer.ready) report(new Error('not connected'))
    else writer.publish(topic, body, report)
  }, interval * 1000)
}

function consume({ nsqd, topic, channel, count, timeout }) {
  let finished = 0
  const reader = new Reader(topic, channel, { nsqdTCPAddresses: [nsqd], maxInFlight: 100, lookupdPollInterval: 1 })
  reader.on(Reader.ERROR, (error) => console.error(error.message))
  reader.on(Reader.MESSAGE, (message) => {
    if (finished === count) { // in flight beyond the count: left to the channel's next consumer
      message.requeue(0, false)
      return
    }
    console.log(`${message.attempts} ${message.body}`)
    message.finish()
    finished += 1
    if (finished === count) {
      clearTimeout(deadline)
      reader.pause()
      setTimeout(() => end(0), 200) // nsqd needs time to read the last FIN
    }
  })
  const end = (status) => {
    process.exitCode = status
    reader.close() // the process ends with its connection,
    setTimeout(() => process.exit(), 1000).unref() // or after a second with an nsqd that does not close it
  }
  const deadline = setTimeout(() => {
    console.error('timeout')
    end(1)
  }, timeout * 1000)
  reader.connect()
}

const string = { type: 'string' }
const { values, positionals: [command] } = parseArgs({
  allowPositionals: true,
  options: {
    nsqd: string, topic: string, body: string, channel: string, count: string,
    interval: { type: 'string', default: '1' },
    timeout: { type: 'string', default: '20' },
  },
})
for (const name of ['count', 'interval', 'timeout']) values[name] = Number(values[name])

const complete = values.nsqd && values.topic
if (command === 'produce' && complete && values.body && values.interval > 0) {
  produce(values)
} else if (command === 'consume' && complete && values.channel && values.count > 0 && values.timeout > 0) {
  consume(values)
} else {
  console.error('produce or consume, with all their options')
  process.exit(2)
}
