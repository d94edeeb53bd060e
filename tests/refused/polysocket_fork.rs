type Mix = manycore::With<manycore::PosixShm, manycore::Futex, manycore::Poll, manycore::Polysocket, manycore::Fork>;

fn main() {
    let _: manycore::Runtime<Mix>;
}
