fn main() {
    let _: manycore::ShmTable<manycore::Heap, manycore::Fcntl>;
}
